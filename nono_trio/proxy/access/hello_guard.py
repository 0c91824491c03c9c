"""Keeps the hello of an intercepted host out of tunnels that are passed on unchanged.

An entry for raw bytes to another name or address of the same server would lead around the rules of
the host, if a TLS hello in the tunnel could ask for it. (Who ends TLS there, and which hosts the
server has, can't be seen; so this closes the spelling and not the server.)

Rules of this file: no I/O and no waiting. Bytes pass at once; only the piece that completes such
a hello is held back. Bytes that are no hello are not looked at further.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.client_hello import BadHello, ClientHello, read_client_hello
from nono_trio.core.net.hello_retry import OtherHello
from nono_trio.core.net.host import BadHost, parse_host

if TYPE_CHECKING:
    from nono_trio.core.policy.network_policy import Policy


class UnseenHello(OtherHello):
    """A hello for a host whose requests must be seen, on a connection to another one."""


class HelloGuard:
    """Follows the client's first bytes in one tunnel, as `HelloRetry` does."""

    __slots__ = ("_needed", "_policy", "_says")

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._says = b""
        self._needed = 1

    def client_says(self, data: bytes | memoryview) -> bool:
        """Take in the client's next bytes before they are passed on. Returns True if no more are
        needed. Raises UnseenHello."""
        self._says += data
        while len(self._says) >= self._needed:
            try:
                read = read_client_hello(self._says)
            except BadHello:
                return True
            if isinstance(read, ClientHello):
                self._check(read)
                return True
            self._needed = read
        return False

    def server_says(self, _data: bytes | memoryview) -> bool:
        """Return True: the server's bytes are not needed."""
        return True

    def _check(self, hello: ClientHello) -> None:
        try:
            asked = None if hello.server_name is None else parse_host(hello.server_name)
        except BadHost:
            return
        endpoints = self._policy.endpoints
        if asked is not None and endpoints is not None and endpoints.names(asked):
            raise UnseenHello(hello)
