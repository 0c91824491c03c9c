"""The upstream proxy, which our proxy connects through: its URL, its exceptions, its credentials.

Rules of this file: a URL on the command line has no password, because everybody can read a command
line; a URL of an environment variable (`env`) may have one. No credential appears in `repr` or in
an error.
"""

from __future__ import annotations

import base64
import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final, Literal, NoReturn
from urllib.parse import unquote_to_bytes

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import AddressClass, classify
from nono_trio.core.net.host import BadHost, Host, parse_rule_host
from nono_trio.core.policy.rule import HTTP_PORT, MAX_PORT, TLS_PORT, is_localhost, with_parents
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FLAG: Final = "--upstream-proxy"
BYPASS_FLAG: Final = "--upstream-bypass"
PASSWORD_FLAG: Final = "--upstream-proxy-password"
FROM_ENVIRONMENT: Final = "env"
# The variables in the order in which they are read; for HTTP curl reads the lower-case one only.
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy")
_NO_PROXY: Final = ("no_proxy", "NO_PROXY")
MAX_CREDENTIAL: Final = 1024  # bytes of user or password; a request head of ours must hold both

_URL = late_pattern(
    r"(?:(https?)://)?(?:([^/@:]*)(?::([^/@]*))?@)?(\[[^\]/@]*\]|[^:/@\[\]]+)(?::([1-9][0-9]{0,4}))?/?",
    re.IGNORECASE,
)
_FORM: Final = "http://[USER@]HOST:PORT, https://[USER@]HOST:PORT or env"


class Bypass(msgspec.Struct, frozen=True):
    """The hosts that are dialled without the upstream proxy."""

    names: frozenset[str] = frozenset()
    suffixes: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    everything: bool = False

    def covers(self, host: Host) -> bool:
        """Return True if `host` is dialled directly. Loopback always is: it means this machine."""
        if self.everything or host.name in self.names:
            return True
        if host.address is not None:
            is_loopback = classify(host.address) is AddressClass.LOOPBACK
            return is_loopback or any(host.address in network for network in self.networks)
        if is_localhost(host.name):
            return True
        parents = with_parents(host.name)
        next(parents)
        return any(parent in self.suffixes for parent in parents)


class UpstreamProxy(msgspec.Struct, frozen=True):
    """An HTTP proxy for outgoing connections. `authorization` is the value of its header."""

    scheme: Literal["http", "https"]
    host: Host
    port: int
    bypass: Bypass = Bypass()
    authorization: bytes | None = None
    source: str = FLAG

    def __repr__(self) -> str:
        return f"UpstreamProxy({self.scheme}://{self.shown})"

    @property
    def shown(self) -> str:
        """Host and port, for records and messages."""
        return f"{self.host.bracketed()}:{self.port}"


def parse_upstream_proxy(
    text: str, bypass: Iterable[str], password: bytes | None, environ: Mapping[str, str]
) -> UpstreamProxy | None:
    """Return the proxy of `--upstream-proxy`; None for `env` if no variable names one.

    `password` belongs to the user in the URL. Raises UsageError.
    """
    if text != FROM_ENVIRONMENT:
        return _parse(FLAG, text, _parse_bypass(bypass), password, may_have_password=False)
    for variable in _VARIABLES:
        url = environ.get(variable)
        if url:
            entries = next((environ[name] for name in _NO_PROXY if name in environ), "")
            whole = _with_no_proxy(_parse_bypass(bypass), entries)
            return _parse(variable, url, whole, password, may_have_password=True)
    return None


def environment_warnings(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning if the environment should name a proxy and names none."""
    if any(environ.get(variable) for variable in _VARIABLES):
        return
    yield (
        f"{FLAG} {FROM_ENVIRONMENT}: neither HTTPS_PROXY nor ALL_PROXY nor http_proxy is set, so"
        " connections go out directly"
    )


def check_upstream_proxy(text: str) -> None:
    """Raise UsageError for an invalid value of `--upstream-proxy`."""
    if text != FROM_ENVIRONMENT:
        _parse(FLAG, text, Bypass(), None, may_have_password=False)


def check_bypass(text: str) -> None:
    """Raise UsageError for an invalid value of `--upstream-bypass`."""
    _parse_bypass([text])


def _parse(
    source: str, text: str, bypass: Bypass, password: bytes | None, *, may_have_password: bool
) -> UpstreamProxy:
    match = _URL.fullmatch(text)
    if match is None:
        _refuse(source, f"expected {_FORM}")
    scheme, user, inline, host_text, port_text = match.groups()
    if inline is not None and not may_have_password:
        _refuse(
            source,
            "expected a URL without a password: everybody can read a command line",
            f"give it with {PASSWORD_FLAG} env://VARIABLE or file://PATH",
        )
    if password is not None and user is None:
        _refuse(source, f"expected a user for the password of {PASSWORD_FLAG}", f"write {_FORM}")
    try:
        host = parse_rule_host(host_text)
    except BadHost as fault:
        _refuse(source, f"its host can't be read: {fault.reason}")
    is_tls = (scheme or "http").lower() == "https"
    if port_text is None and source == FLAG and not is_tls:
        # Programs then assume 80, 1080 or 3128, so a missing port is a mistake.
        _refuse(source, "expected a port, got none", f"{FLAG} http://{host.bracketed()}:3128")
    port = int(port_text) if port_text else (TLS_PORT if is_tls else HTTP_PORT)
    if port > MAX_PORT:
        _refuse(source, f"expected a port up to {MAX_PORT}")
    secret = password if password is not None else unquote_to_bytes(inline or "")
    authorization = None if user is None else _basic(source, unquote_to_bytes(user), secret)
    return UpstreamProxy("https" if is_tls else "http", host, port, bypass, authorization, source)


def _basic(source: str, user: bytes, password: bytes) -> bytes:
    """RFC 7617: the value of Proxy-Authorization."""
    if b":" in user or max(len(user), len(password)) > MAX_CREDENTIAL:
        _refuse(source, f"expected a user without a colon, and at most {MAX_CREDENTIAL} bytes")
    if not (user + password).isascii() or any(byte < 0x20 or byte == 0x7F for byte in password):
        _refuse(source, "expected a user and password of printable ASCII characters")
    return b"Basic " + base64.b64encode(user + b":" + password)


def _parse_bypass(entries: Iterable[str]) -> Bypass:
    names, suffixes = set[str](), set[str]()
    for entry in entries:
        is_suffix = entry.startswith("*.")
        try:
            host = parse_rule_host(entry[2:] if is_suffix else entry)
        except BadHost as fault:
            _refuse_bypass(entry, fault.reason)
        (suffixes if is_suffix else names).add(host.name)
    return Bypass(frozenset(names), frozenset(suffixes))


def _refuse_bypass(entry: str, reason: str) -> NoReturn:
    from nono_trio.core.policy.mistaken_hosts import meant_by  # late: for a mistake only

    meant = meant_by(entry)
    if meant is None:
        _refuse(f"{BYPASS_FLAG} {entry!a}", reason, "write HOST or *.SUFFIX")
    reason = f"expected a host, got {meant.what}"
    _refuse(f"{BYPASS_FLAG} {entry!a}", reason, f"{BYPASS_FLAG} {meant.host}")


def _with_no_proxy(bypass: Bypass, entries: str) -> Bypass:
    """Add the entries of NO_PROXY as tools read them: a name includes all names below it.

    An entry that can't be parsed is left out, so its hosts go through the proxy.
    """
    names, suffixes, networks = set(bypass.names), set(bypass.suffixes), [*bypass.networks]
    words = [word.strip() for word in entries.split(",")]
    for word in filter(None, words):
        try:
            networks.append(ip_network(word.strip("[]"), strict=False))
            continue
        except ValueError:
            pass
        try:
            host = parse_rule_host(word.removeprefix("*").removeprefix("."))
        except BadHost:
            continue
        names.add(host.name)
        suffixes.add(host.name)
    return Bypass(frozenset(names), frozenset(suffixes), tuple(networks), "*" in words)


def _refuse(source: str, reason: str, hint: str = f"{FLAG} takes {_FORM}") -> NoReturn:
    raise UsageError(f"{source}: {reason}", hint=hint)
