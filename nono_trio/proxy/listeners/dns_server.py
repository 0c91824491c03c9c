"""The name service's sockets: datagrams and connections to port 53 of any address.

Rules of this file:
- A datagram is answered from the address that it was sent to, or the program would not accept the
  answer.
- Datagrams are answered one by one, so the kernel's buffer is the queue, and a flood loses its own.
- A client that misbehaves loses its answer or its connection.
"""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import trio

from nono_trio.core.net.dns import MAX_QUERY
from nono_trio.core.net.endpoints import Endpoints
from nono_trio.errors import SessionSealed
from nono_trio.proxy.listeners.dns_responder import DNS_PORT
from nono_trio.proxy.listeners.origin import origin_of

if TYPE_CHECKING:
    from nono_trio.proxy.listeners.dns_responder import NameService

    Ancillary: TypeAlias = list[tuple[int, int, bytes]]

BATCH: Final = 32  # datagrams answered before other tasks get a turn, about 1 ms
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
_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def serve_datagrams(sock: socket.socket, service: NameService) -> None:
    """Answer on a bound UDP socket until cancelled, then close it. Raises AuditLost."""
    with sock:
        sock.setblocking(False)
        _tell_destinations(sock)
        while True:
            try:
                for _ in range(BATCH):
                    await _answer_one(sock, service)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
            except OSError:  # what happened to an earlier answer, or no memory
                await trio.sleep(BACKOFF)
            except SessionSealed:
                return
            else:
                await trio.lowlevel.checkpoint()


async def _answer_one(sock: socket.socket, service: NameService) -> None:
    message, ancillary, _, peer = sock.recvmsg(MAX_QUERY + 1, _ANCILLARY_SIZE)
    reply = await service.reply(message, _asked_by(peer, ancillary))
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
    """Answer on a listening TCP socket until cancelled, then close it and its connections.
    Raises AuditLost."""
    room = trio.CapacityLimiter(MAX_CONNECTIONS)
    with listener:
        listener.setblocking(False)
        accepting = trio.socket.from_stdlib_socket(listener)
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    sock, _ = await accepting.accept()
                except OSError as error:
                    await trio.sleep(BACKOFF if error.errno in _SHORT else 0)
                    continue
                stream = trio.SocketStream(sock)
                try:
                    room.acquire_on_behalf_of_nowait(stream)
                except trio.WouldBlock:
                    sock.close()
                else:
                    nursery.start_soon(_converse, stream, service, room)


async def _converse(
    stream: trio.SocketStream, service: NameService, room: trio.CapacityLimiter
) -> None:
    try:
        async with stream:
            with suppress(trio.BrokenResourceError, SessionSealed):
                origin = origin_of(stream.socket)
                while await _exchange(stream, service, origin):
                    pass
    finally:
        room.release_on_behalf_of(stream)


async def _exchange(
    stream: trio.SocketStream, service: NameService, origin: Endpoints | None
) -> bool:
    """Answer one message; whether another may follow."""
    with trio.move_on_after(MESSAGE_SECONDS):
        prefix = await _receive_exactly(stream, _LENGTH.size)
        length = _LENGTH.unpack(prefix)[0] if prefix else MAX_QUERY + 1
        if length > MAX_QUERY:
            return False
        message = await _receive_exactly(stream, length)
        reply = await service.reply(message, origin) if message else None
        if reply is not None:
            await stream.send_all(_LENGTH.pack(len(reply)) + reply)
            return True
    return False


async def _receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Exactly `count` bytes, or b"" if the connection ended before."""
    data = b""
    while len(data) < count:
        more = await stream.receive_some(count - len(data))
        if not more:
            return b""
        data += more
    return data
