"""Keeps the hello of an intercepted host out of tunnels that are passed on unchanged.

An entry for raw bytes to another name or address of the same server would lead around the rules of
the host, if a TLS hello in the tunnel could ask for it. (Who ends TLS there, and which hosts the
server has, can't be seen; so this closes the spelling and not the server.)

Rules of this file:
- No I/O and no waiting. Bytes pass at once; only the piece that completes such a hello is held
  back.
- Bytes that are no TLS are not looked at further. A TLS hello that can't be read is refused, since
  a server may read in it what is not seen here.
- Some servers skip records before the hello: Go's warnings, and those that keep no state between
  two hellos a change_cipher_spec (RFC 8446 5). Some take any small version number in the hello's
  record. All are read here as they read them.
- The second hello that a server may request is followed as on a connection that must be TLS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.net.client_hello import (
    CLIENT_HELLO,
    HANDSHAKE,
    RECORD_HEADER,
    BadHello,
    ClientHello,
    read_client_hello,
)
from nono_trio.core.net.hello_retry import HelloRetry, OtherHello
from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.reasons import DenialCode, format_reason

if TYPE_CHECKING:
    from nono_trio.core.policy.network_policy import Policy

# The size of the content of a record that may be skipped, by its type: RFC 8446 5 and 6.
_SKIPPED_SIZES: Final = {20: 1, 21: 2}  # change_cipher_spec, alert
_TLS: Final = b"\3"  # the first octet of a record's version
_LESS_THAN: Final = 0x10  # of that octet, where a server is lenient


class UnseenHello(OtherHello):
    """A hello for a host whose requests must be seen, on a connection to another one."""


class UnreadHello(BadHello):
    """A hello that can't be read, on a connection whose bytes may be anything."""


class HelloGuard:
    """Follows the first bytes of both sides in one tunnel, as `HelloRetry` does."""

    __slots__ = ("_is_over", "_needed", "_policy", "_retry", "_says")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._says = b""
        self._needed = 1
        self._retry = HelloRetry()
        self._is_over = False

    def client_says(self, data: bytes | memoryview) -> bool:
        """Take in the client's next bytes before they are passed on. Returns True if no more are
        needed. Raises UnseenHello, OtherHello and BadHello."""
        if self._retry.first is not None:
            return self._follow(data)
        self._says += data
        self._skip_records()
        while len(self._says) >= self._needed:
            try:
                read = read_client_hello(self._usual())
            except BadHello as fault:
                if fault.is_tls and self._is_tls():
                    raise UnreadHello(fault.reason) from None
                self._is_over = True
                return True
            if isinstance(read, ClientHello):
                self._check(read)
                self._retry.first = read
                says, self._says = self._says, b""
                return self._follow(says)
            self._needed = read
        return False

    def server_says(self, data: bytes | memoryview) -> bool:
        """Take in the server's next bytes. Returns True if no more are needed."""
        return self._is_over or self._retry.server_says(data)

    def _skip_records(self) -> None:
        while (says := self._says) and (inside := _SKIPPED_SIZES.get(says[0])) is not None:
            whole = RECORD_HEADER + inside
            if len(says) < whole:
                self._needed = whole
                return
            if says[1] >= _LESS_THAN or int.from_bytes(says[3:RECORD_HEADER], "big") != inside:
                return
            self._says = says[whole:]
            self._needed = 1

    def _usual(self) -> bytes:
        """The client's bytes, with the usual version in their first record."""
        says = self._says
        if says[:1] == bytes([HANDSHAKE]) and says[1:2] and says[1] < _LESS_THAN:
            return says[:1] + _TLS + says[2:]
        return says

    def _is_tls(self) -> bool:
        """Return whether bytes that can't be read are a hello. Other protocols may begin with the
        same number, but not with a TLS version, nor with a hello's type behind the header."""
        says = self._says
        return says[1:2] == _TLS or says[RECORD_HEADER : RECORD_HEADER + 1] == bytes([CLIENT_HELLO])

    def _follow(self, data: bytes | memoryview) -> bool:
        try:
            return self._retry.client_says(data)
        except OtherHello as other:
            self._check(other.hello)
            raise

    def _check(self, hello: ClientHello) -> None:
        try:
            asked = None if hello.server_name is None else parse_host(hello.server_name)
        except BadHost as fault:
            reason = format_reason(DenialCode.BAD_SERVER_NAME, detail=fault.reason)
            raise UnreadHello(reason) from None
        endpoints = self._policy.endpoints
        if asked is not None and endpoints is not None and endpoints.names(asked):
            raise UnseenHello(hello)
