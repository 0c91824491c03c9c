"""One connection to an upstream, and whether it can serve another request."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

    from nono_trio.proxy.transport.epoll import Readiness, Waker, Watch
    from nono_trio.proxy.upstream.proxy_chain import ProxyChain


class Upstream:
    """A connected socket, the address it reached, and the host and port it was dialled for.

    `name` is the full name that has the address, where that is not the host's. `used`: a request
    went out on it. `chain`: the connection is to an upstream proxy, which takes requests in
    absolute form. `early`: what the host has said already.
    """

    __slots__ = (
        "_readiness",
        "address",
        "chain",
        "early",
        "key",
        "name",
        "sock",
        "used",
        "watch",
    )

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        key: tuple[str, int],
        readiness: Readiness,
        waker: Waker,
        name: str | None = None,
    ) -> None:
        self.sock = sock
        self.address = address
        self.key = key
        self.name = name
        self.used = False
        self.chain: ProxyChain | None = None
        self.early = b""
        self._readiness = readiness
        try:
            self.watch: Watch = readiness.watch(sock, "upstream", waker)
        except OSError:  # no room for another watch (fs.epoll.max_user_watches)
            sock.close()
            raise

    def is_idle(self) -> bool:
        """Whether the connection is open and silent, so that a request may go out on it.

        Bytes that nobody asked for would be taken for the next answer, so they spoil it.
        """
        try:
            self.sock.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close the socket; its number is forgotten first, the kernel may hand it out again."""
        self._readiness.forget(self.watch)
        self.sock.close()
