"""The URL of a token endpoint, as a profile names it.

Rules of this file:
- It is https://, or http:// to a host on loopback or in a private network: the name is checked
  here, its addresses by the one that connects.
- It has no user, query or fragment, and its path is the canonical spelling (endpoint_path.py).
- `matches` covers every path that some server may read as the URL's: case, empty segments,
  parameters (";x"), an extension and segments after it make no difference. What it covers too much
  is an answer that is read whole before it goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NoReturn
from urllib.parse import unquote

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import AddressClass, classify
from nono_trio.core.net.host import BadHost, Host, parse_rule_host
from nono_trio.core.policy.endpoint_path import BadPath, canonical_target
from nono_trio.core.policy.rule import HTTP_PORT, MAX_PORT, TLS_PORT
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_URL: Final = late_pattern(
    r"(https?)://(\[[^\]/?#@]*\]|[^:/?#@\[\]]+)(?::([1-9][0-9]{0,4}))?(/[^?#]*)", re.IGNORECASE
)
_FORM: Final = "as in https://auth.example.com/oauth/token"
_INSIDE: Final = frozenset({AddressClass.LOOPBACK, AddressClass.PRIVATE})


@dataclass(frozen=True, slots=True)
class TokenUrl:
    """One token URL; `path` is canonical, without a query."""

    scheme: Literal["http", "https"]
    host: Host
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the field Host."""
        default = HTTP_PORT if self.scheme == "http" else TLS_PORT
        return self.host.bracketed() + (f":{self.port}" if self.port != default else "")

    @property
    def text(self) -> str:
        """The URL, for messages and rules."""
        return f"{self.scheme}://{self.authority}{self.path}"

    def is_at(self, scheme: str, host: Host, port: int) -> bool:
        """Return True if the endpoint is at this origin."""
        return (scheme, host.name, port) == (self.scheme, self.host.name, self.port)

    def matches(self, target: str) -> bool:
        """Return True if a server may read a target in origin-form as this URL's path."""
        ours = _readable(self.path)
        asked = _readable(target.partition("?")[0])
        return len(asked) >= len(ours) and all(
            one == other or one.startswith(f"{other}.")
            for one, other in zip(asked, ours, strict=False)
        )

    def may_dial(self, address: IPv4Address | IPv6Address) -> bool:
        """Return False for an address that a secret would reach in clear, and for one that no rule
        can allow."""
        found = classify(address)
        return found in _INSIDE or (self.scheme == "https" and not found.is_never_allowed)


def parse_token_url(name: str, text: str) -> TokenUrl:
    """Parse a token URL of credential `name`. Raises UsageError."""
    return parse_service_url(f"credential {name}: token URL", text)


def parse_service_url(name: str, text: str) -> TokenUrl:
    """Parse a URL that the supervisor itself asks; errors begin with `name`. Raises UsageError."""
    match = _URL.fullmatch(text) if text.isprintable() else None
    if match is None:
        _refuse(name, text, "expected a URL with a path and without a query", _FORM)
    scheme: Literal["http", "https"] = "http" if match[1].lower() == "http" else "https"
    port = int(match[3] or (HTTP_PORT if scheme == "http" else TLS_PORT))
    if port > MAX_PORT:
        _refuse(name, text, f"expected a port from 1 to {MAX_PORT}", _FORM)
    try:
        host = parse_rule_host(match[2])
        path = canonical_target(match[4]).path
    except (BadHost, BadPath) as bad:
        reason = bad.reason if isinstance(bad, BadHost) else f"the path {bad.reason}"
        _refuse(name, text, reason, _FORM)
    url = TokenUrl(scheme, host, port, path)
    if host.address is not None and not url.may_dial(host.address):
        hint = "http:// is for a host on loopback or in a private network; write https://"
        _refuse(name, text, f"the address is {classify(host.address).words}", hint)
    return url


def _readable(path: str) -> list[str]:
    """Return the segments of a path that every server sees."""
    segments = (one.partition(";")[0].lower() for one in unquote(path).split("/"))
    return [one for one in segments if one]


def _refuse(name: str, text: str, reason: str, hint: str) -> NoReturn:
    raise UsageError(f"{name} {text!a}: {reason}", hint=hint)
