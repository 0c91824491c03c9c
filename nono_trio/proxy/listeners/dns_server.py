"""The name service's sockets: datagrams and connections to port 53 of any address.

Rules of this file:
- A datagram is answered from the address that it was sent to, or the program would not accept the
  answer.
- Datagrams are answered one by one, so the kernel's buffer is the queue, and a flood loses its own.
  Only a query that waits for its record lets the next ones pass, up to MAX_WAITING of them.
- A client that misbehaves loses its answer or its connection.
- At the end, what has arrived is answered first (ending.py), since each query may be a record.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from nono_trio.core.net.dns import MAX_QUERY
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.errors import AuditBusy, SessionSealed
from nono_trio.proxy.listeners.dns_responder import DNS_PORT
from nono_trio.proxy.listeners.ending import serve_to_the_end
from nono_trio.proxy.listeners.origin import origin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.proxy.listeners.dns_responder import NameService
    from nono_trio.proxy.listeners.ending import Ending

    Ancillary: TypeAlias = list[tuple[int, int, bytes]]

BATCH: Final = 32  # datagrams answered before other tasks get a turn, about 1 ms
MAX_WAITING: Final = 64  # queries of one socket that wait for their records
MAX_CONNECTIONS: Final = 64  # a resolver keeps one open, and needs it only for long answers
MESSAGE_SECONDS: Final = 10.0  # for one message of a connection (RFC 7766 6.2.3: some seconds)
BACKOFF: Final = 0.1  # seconds, while the system has no descriptors or buffers left

_IP_PKTINFO: Final = 8
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78  # answering from addresses that no interface has; no privilege needed
_IPV4_INFO: Final = struct.Struct("=I4s4s")  # interface, source to use, destination of the header
_IPV6_INFO: Final = struct.Struct("=16sI")  # address, interface
_ANCILLARY_SIZE: Final = 128  # one of the two with its header, and room
_LENGTH: Final = struct.Struct("!H")
_SO_MEMINFO: Final = 55
_MEMORY_INFO: Final = struct.Struct("=9I")  # the last one counts dropped datagrams
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve_datagrams(sock: socket.socket, service: NameService) -> None:
    """Answer on a bound UDP socket until cancelled, then what has arrived, and close it. Raises
    AuditLost (in a group)."""
    with sock:
        sock.setblocking(False)
        _tell_destinations(sock)
        try:
            await serve_to_the_end(lambda ending: _Datagrams(sock, service, ending).answer())
        finally:
            service.lost += _dropped(sock)


class _Datagrams:
    """Answers on one socket. One task receives at a time; when it has to wait for a record, it
    starts another one to go on, and ends with its answer."""

    def __init__(self, sock: socket.socket, service: NameService, ending: Ending) -> None:
        self._socket = sock
        self._service = service
        self._ending = ending
        self._waiting = 0

    async def answer(self) -> None:
        """Answer until the ending is asked for and nothing more has arrived. Raises AuditLost."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, nursery)

    async def _receive(self, nursery: trio.Nursery) -> None:
        is_passed_on = False

        def pass_on() -> None:
            nonlocal is_passed_on
            if not is_passed_on and self._waiting < MAX_WAITING:
                self._waiting += 1
                is_passed_on = True
                nursery.start_soon(self._receive, nursery)

        try:
            while True:
                try:
                    for _ in range(BATCH):
                        await _answer_one(self._socket, self._service, pass_on)
                        if is_passed_on:
                            return
                except BlockingIOError:
                    if self._ending.is_asked:
                        return
                    await self._ending.readable(self._socket)
                except OSError:  # what happened to an earlier answer, or no memory
                    await trio.sleep(BACKOFF)
                except SessionSealed:
                    return
                else:
                    await trio.lowlevel.checkpoint()
        finally:
            self._waiting -= is_passed_on


def _dropped(sock: socket.socket) -> int:
    """Number of datagrams that the kernel has dropped because the socket's buffer was full."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMORY_INFO.size)
    except OSError:
        return 0
    return int(_MEMORY_INFO.unpack(found)[-1]) if len(found) == _MEMORY_INFO.size else 0


async def _answer_one(
    sock: socket.socket, service: NameService, will_wait: Callable[[], None]
) -> None:
    message, ancillary, _, peer = sock.recvmsg(MAX_QUERY + 1, _ANCILLARY_SIZE)
    reply = await service.reply(message, _asked_by(peer, ancillary), will_wait)
    if reply is not None:
        with suppress(OSError):  # a full buffer or a peer that has gone: it would ask again
            sock.sendmsg([reply], _reply_source(ancillary), 0, peer)


def _tell_destinations(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


def _reply_source(ancillary: Ancillary) -> Ancillary:
    """Return the ancillary data that makes an answer leave from its query's destination."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, _, destination = _IPV4_INFO.unpack(data)
            return [(level, kind, _IPV4_INFO.pack(0, destination, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            address, interface = _IPV6_INFO.unpack(data)  # link-local ones need their interface
            return [(level, kind, _IPV6_INFO.pack(address, interface))]
    return []


def _asked_by(peer: tuple[Any, ...], ancillary: Ancillary) -> Endpoints | None:
    """The socket that asked; None if the kernel does not say to which address."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            server = socket.inet_ntoa(_IPV4_INFO.unpack(data)[2])
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            server = socket.inet_ntop(socket.AF_INET6, _IPV6_INFO.unpack(data)[0])
        else:
            continue
        return Endpoints("udp", peer[0].partition("%")[0], peer[1], server, DNS_PORT)
    return None


async def serve_connections(listener: socket.socket, service: NameService) -> None:
    """Answer on a listening TCP socket until cancelled, then what has arrived, and close it and its
    connections. Raises AuditLost (in a group)."""
    with listener:
        listener.setblocking(False)
        await serve_to_the_end(partial(_accept_connections, listener, service))


async def _accept_connections(
    listener: socket.socket, service: NameService, ending: Ending
) -> None:
    room = trio.CapacityLimiter(MAX_CONNECTIONS)
    async with trio.open_nursery() as nursery:
        while True:
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                if ending.is_asked:
                    break
                await ending.readable(listener)
                continue
            except OSError as error:
                await trio.sleep(BACKOFF if error.errno in _SHORT else 0)
                continue
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            try:
                room.acquire_on_behalf_of_nowait(stream)
            except trio.WouldBlock:
                async with stream:
                    await _record_no_query(stream, service)
            else:
                nursery.start_soon(_converse, stream, service, room)
            await trio.lowlevel.checkpoint()


async def _converse(
    stream: trio.SocketStream, service: NameService, room: trio.CapacityLimiter
) -> None:
    try:
        async with stream:
            origin = origin_of(stream.socket)  # None after a reset
            with suppress(SessionSealed):
                if not await _serve_queries(stream, service, origin):
                    await _record_no_query(stream, service, origin)
    finally:
        room.release_on_behalf_of(stream)


async def _record_no_query(
    stream: trio.SocketStream, service: NameService, origin: Endpoints | None = None
) -> None:
    server = stream.socket.getsockname()[0].partition("%")[0]  # also known after a reset
    with suppress(AuditBusy, SessionSealed):
        await service.record_empty_connection(server, origin or origin_of(stream.socket))


async def _serve_queries(
    stream: trio.SocketStream, service: NameService, origin: Endpoints | None
) -> bool:
    """Answer one message after the other; returns False if something else came, or nothing."""
    has_message = False
    while message := await _receive_message(stream):
        has_message = True
        reply = await service.reply(message, origin)
        if reply is None:
            return True
        with trio.move_on_after(MESSAGE_SECONDS) as sending:
            try:
                await stream.send_all(_LENGTH.pack(len(reply)) + reply)
            except trio.BrokenResourceError:
                return True
        if sending.cancelled_caught:
            return True
    return has_message and message is None


async def _receive_message(stream: trio.SocketStream) -> bytes | None:
    """Return the next message; b"" if it is too long or was not whole in time, None if no byte
    came."""
    data = bytearray()
    with trio.move_on_after(MESSAGE_SECONDS), suppress(trio.BrokenResourceError):
        if await _receive_until(stream, data, _LENGTH.size):
            (length,) = _LENGTH.unpack(data)
            if length <= MAX_QUERY and await _receive_until(stream, data, _LENGTH.size + length):
                return bytes(data[_LENGTH.size :])
    return b"" if data else None


async def _receive_until(stream: trio.SocketStream, data: bytearray, count: int) -> bool:
    """Append to `data` until it has `count` bytes; returns False if the connection ended before."""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            return False
        data += more
    return True
