"""Endpoint rules: which methods and paths of a host may be asked for, from a person's text.

An entry is METHODS URL, as in `GET,HEAD https://api.example.com/repos/**`. METHODS is a list with
commas, `*` for every method, or `read-only`: GET, HEAD, OPTIONS, and what a `git fetch` sends, but
no `git push`. The URL is http:// or https://, a host as in --allow-domain (*.SUFFIX too), a port
unless it is the scheme's own, a path (endpoint_pattern.py) and a query (endpoint_query.py) if its
parameters matter. The word allow_encoded_slash may follow.

Rules of this file:
- Every other text raises UsageError with the flag and the entry.
- An allow rule is exact: scheme, port, method, path. A deny rule without a port is for every port
  and for both schemes, and the case of a method does not matter.
- `parse_entry` reads what `EndpointRule.entry` writes: policy.json keeps a rule so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

from msgspec.structs import replace

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.endpoint_pattern import PathPattern, parse_pattern
from nono_trio.core.policy.endpoint_query import (
    Parameter,
    parse_query,
    query_covers,
    query_may_cover,
    query_text,
)
from nono_trio.core.policy.endpoint_readings import strict_readings
from nono_trio.core.policy.rule import (
    ALLOW_FLAG,
    ANY_PORT,
    HTTP_PORT,
    TLS_PORT,
    Rule,
    has_path,
    parse_allow,
    parse_deny,
)
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.endpoint_path import CanonicalTarget

ALLOW_ENDPOINT_FLAG: Final = "--allow-endpoint"
DENY_ENDPOINT_FLAG: Final = "--deny-endpoint"

Action: TypeAlias = Literal["allow", "deny", "audit"]
Scheme: TypeAlias = Literal["http", "https"]

ANY_METHOD: Final = "*"
READ_ONLY: Final = "read-only"
ENCODED_SLASH: Final = "allow_encoded_slash"
DEFAULT_PORTS: Final[Mapping[str, int]] = {"http": HTTP_PORT, "https": TLS_PORT}

_READ_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# git's smart protocol: the service in a query, and the program as the last segment of a path.
_GIT_REFS: Final = "/info/refs"
_GIT_FETCH: Final = "git-upload-pack"
_ONLY_FETCH: Final[tuple[Parameter, ...]] = (("service", (_GIT_FETCH,)),)
_ANY_SERVICE: Final[tuple[Parameter, ...]] = (("service", ("", "")),)

_URL: Final = late_pattern(r"(https?)://([^/?#@\\\s]*)(/[^?#]*)?(?:\?(.*))?", re.IGNORECASE)
_METHOD: Final = late_pattern(r"[A-Za-z0-9!#$%&'+.^_`|~-]+")
FORM: Final = "an entry is like 'GET,HEAD https://api.example.com/repos/**'"


@dataclass(frozen=True, slots=True)
class EndpointRule:
    """One rule. `text` is as its author wrote it; `methods` are empty for every method.

    `ports` has ANY_PORT for all of them.
    """

    text: str
    action: Action
    scheme: Scheme
    host: Host
    wildcard: bool
    ports: tuple[int, ...]
    pattern: PathPattern
    methods: frozenset[str] = frozenset()
    read_only: bool = False
    query: tuple[Parameter, ...] = ()
    encoded_slash: bool = False

    @property
    def entry(self) -> str:
        """The rule with its action, for `parse_entry`."""
        return f"{self.action} {self.text}"

    @property
    def host_rule(self) -> Rule:
        """The entry that lets connections to the host in, to be intercepted."""
        return Rule(self.text, self.host, self.wildcard, self.ports)

    def covers(self, scheme: str, port: int, method: str, target: CanonicalTarget) -> bool:
        """Return True if a rule that allows covers a request."""
        return (
            scheme == self.scheme
            and (port in self.ports or ANY_PORT in self.ports)
            and self._has_method(method, target)
            and (self.encoded_slash or not target.hides_slash)
            and self.pattern.covers(target)
            and query_covers(self.query, target.query)
        )

    def may_cover(self, port: int, method: str, target: CanonicalTarget) -> bool:
        """Return True if a rule that denies covers a request, as any server may read it."""
        return (
            (port in self.ports or ANY_PORT in self.ports)
            and (not self.methods or method.upper() in self.methods)
            and self.pattern.may_cover(target)
            and query_may_cover(self.query, target.query)
        )

    def _has_method(self, method: str, target: CanonicalTarget) -> bool:
        if not self.read_only:
            return not self.methods or method in self.methods
        if method == "POST":
            return all(one[-1] == _GIT_FETCH for one in strict_readings(target))
        if method not in _READ_METHODS:
            return False
        asks_git = target.path.endswith(_GIT_REFS) and query_may_cover(_ANY_SERVICE, target.query)
        return not asks_git or query_covers(_ONLY_FETCH, target.query)


def parse_url_entry(text: str) -> EndpointRule:
    """Parse a URL with a path, an entry of --allow-domain: every method is allowed. Raises
    UsageError."""
    return _parse(ALLOW_FLAG, text, "allow", ANY_METHOD, text, encoded_slash=False)


def parse_endpoint(flag: str, text: str, action: Action) -> EndpointRule:
    """Parse METHODS URL [allow_encoded_slash]. Raises UsageError."""
    words = text.split(" ")
    encoded_slash = words[2:] == [ENCODED_SLASH]
    if len(words) == 1 and has_path(text):
        _refuse(flag, text, "expected methods before the URL", f"{flag} '{ANY_METHOD} {text}'")
    if len(words) != 2 and not encoded_slash:
        _refuse(flag, text, "expected METHODS URL", FORM)
    return _parse(flag, text, action, words[0], words[1], encoded_slash=encoded_slash)


def require_methods(text: str) -> None:
    """Raise UsageError for a URL alone where --allow-endpoint takes METHODS URL: as an entry of
    --allow-domain it would allow every method."""
    if has_path(text):
        parse_endpoint(ALLOW_ENDPOINT_FLAG, text, "allow")


def parse_entry(text: str) -> EndpointRule:
    """Parse ACTION METHODS URL [allow_encoded_slash], or ACTION URL. Raises UsageError."""
    action, _, rest = text.partition(" ")
    if action == "allow" and has_path(rest):
        return parse_url_entry(rest)
    if action == "allow":
        return parse_endpoint(ALLOW_ENDPOINT_FLAG, rest, "allow")
    if action == "audit":
        return parse_endpoint(ALLOW_ENDPOINT_FLAG, rest, "audit")
    if action == "deny":
        return parse_endpoint(DENY_ENDPOINT_FLAG, rest, "deny")
    raise UsageError(f"expected allow, deny or audit before a rule, got {action!a}", hint=FORM)


def endpoint_text(
    host: str,
    methods: Sequence[str] = (),
    path: str = "/**",
    query: Mapping[str, str] | None = None,
    *,
    allow_encoded_slash: bool = False,
) -> str:
    """Return METHODS URL [allow_encoded_slash] of the parts that a profile gives."""
    url = (host if "://" in host else f"https://{host}") + path.replace(" ", "%20")
    if query:
        url += f"?{query_text(query)}"
    words = [",".join(methods) or ANY_METHOD, url]
    return " ".join(words + [ENCODED_SLASH] * allow_encoded_slash)


def _parse(
    flag: str, text: str, action: Action, methods: str, url: str, *, encoded_slash: bool
) -> EndpointRule:
    match = _URL.fullmatch(url) if url.isprintable() else None
    if match is None or match[3] is None:
        _refuse(flag, text, "expected http:// or https:// with a host and a path", FORM)
    scheme: Scheme = "http" if match[1].lower() == "http" else "https"
    try:
        pattern = parse_pattern(match[3])
        query = () if match[4] is None else parse_query(match[4])
    except UsageError as error:
        raise UsageError(f"{flag} {text!a}: {error.message}", hint=error.hint) from None
    try:
        host_rule = _host_rule(action, match[2])
    except UsageError as error:
        hint = error.hint
        if hint is None or hint.startswith("an entry is "):  # one of --allow-domain
            hint = FORM
        _refuse(flag, text, re.sub(r"^--[a-z-]+ '[^']*': ", "", error.message), hint)
    ports = host_rule.ports
    if action != "deny" and not _names_port(match[2]):
        ports = (DEFAULT_PORTS[scheme],)
    named, read_only = _methods(flag, text, action, methods)
    return EndpointRule(
        text, action, scheme, host_rule.host, host_rule.wildcard, ports, pattern,
        named, read_only, query, encoded_slash or pattern.hides_slash,
    )  # fmt: skip


def _host_rule(action: Action, host: str) -> Rule:
    if action == "deny":
        return parse_deny(host)
    if _names_port(host) or host.startswith("["):
        return parse_allow(host)
    rule = parse_allow(f"{host}:{TLS_PORT}")  # a single word is a host here
    return replace(rule, text=host)


def _names_port(host: str) -> bool:
    return ":" in host.rpartition("]")[2]


def _methods(flag: str, text: str, action: Action, methods: str) -> tuple[frozenset[str], bool]:
    """Return the methods that are named, none for all of them, and whether it is the preset."""
    if methods == ANY_METHOD:
        return frozenset(), False
    if methods.lower() == READ_ONLY:
        if action == "deny":
            hint = "write the methods, as in POST,PUT,PATCH,DELETE"
            _refuse(flag, text, f"{READ_ONLY} allows, it can't deny", hint)
        return frozenset(), True
    named = methods.split(",")
    for one in named:
        if one == ANY_METHOD or one.lower() == READ_ONLY:
            _refuse(flag, text, f"expected {one} alone, got more methods beside it", FORM)
        if not _METHOD.fullmatch(one):
            _refuse(flag, text, f"expected a method, got {one!a}", FORM)
    return frozenset(map(str.upper, named)), False


def _refuse(flag: str, text: str, reason: str, hint: str) -> NoReturn:
    raise UsageError(f"{flag} {text!a}: {reason}", hint=hint)
