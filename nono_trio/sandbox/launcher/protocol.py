"""The messages between supervisor and launcher over one socketpair.

A message is a JSON object behind its length and the number of its file descriptors (4 bytes each,
big endian). These travel with its bytes, as many at once as the kernel carries; whose they are the
number says, as one read may give more than one message. The supervisor speaks first:

    supervisor -> launcher   {"start": {...}}          the whole cage (`cage_plan.CagePlan`)
    launcher -> supervisor   {"view": why not | null, "home_seen": bool}  with the socket at which
                             the view's server tells of look-ups; if the plan wants one
    launcher -> supervisor   {"ready": {...}}          caged and waiting; with the named sockets
                             and, on Linux, a pidfd of PID 1 of the cage
                             {"failed": {stage, errno, text}}
    supervisor -> launcher   {"go": true}              exec now
    launcher -> supervisor   {"started": true}, {"exec_failed": {errno}}
    supervisor -> launcher   {"signal": n}, {"foreground": true},
                             {"connect": port, "address": text, "id": n}
    launcher -> supervisor   {"stopped": signal}, {"exited": code}, {"killed": signal}
                             {"connecting": id, "errno": n} with a socket that is connecting inside

The child holds no end of this socket: it is closed in the child before the command runs.
"""

from __future__ import annotations

import array
import json
import socket
import struct

# The start message carries argv and environment, which the kernel bounds at about 2 MiB (execve's
# ARG_MAX with the default stack limit); twice that leaves room for JSON escapes.
MAX_MESSAGE = 4 << 20
_AT_ONCE = 250  # descriptors; the kernel's SCM_MAX_FD is 253

_HEADER = struct.Struct(">II")  # length, descriptors
_RIGHTS_SPACE = socket.CMSG_SPACE(_AT_ONCE * array.array("i").itemsize)


class ProtocolError(Exception):
    """The other side sent an invalid message."""


def encode(message: dict[str, object], descriptors: int = 0) -> bytes:
    """Return `message` behind its header; `descriptors`: how many go with it."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode()
    return _HEADER.pack(len(body), descriptors) + body


class Decoder:
    """Splits a byte stream into messages; keeps descriptors until their message is complete."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def feed(self, data: bytes, descriptors: list[int]) -> None:
        """Add the result of one read."""
        self._buffer += data
        self._descriptors += descriptors

    def next(self) -> tuple[dict[str, object], list[int]] | None:
        """Return the next whole message with its descriptors, or None."""
        if len(self._buffer) < _HEADER.size:
            return None
        length, count = _HEADER.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"message of {length} bytes, expected at most {MAX_MESSAGE}")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        try:
            message = json.loads(bytes(self._buffer[_HEADER.size : end]))
        except (ValueError, RecursionError) as error:
            raise ProtocolError("expected JSON, got something else") from error
        del self._buffer[:end]
        if not isinstance(message, dict):
            raise ProtocolError(f"expected an object, got {type(message).__name__}")
        if count > len(self._descriptors):
            raise ProtocolError(f"expected {count} descriptors, got {len(self._descriptors)}")
        descriptors = self._descriptors[:count]
        del self._descriptors[:count]
        return message, descriptors


def read_once(sock: socket.socket, decoder: Decoder) -> bool:
    """Feed `decoder` with one read; return False at the end of the stream or after a reset."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(1 << 16, _RIGHTS_SPACE)
    except ConnectionResetError:  # closed with our data unread
        return False
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
    decoder.feed(data, list(descriptors))
    return bool(data)


def send(
    sock: socket.socket, message: dict[str, object], descriptors: list[int] | None = None
) -> None:
    """Send one message on a blocking socket, `descriptors` with its first bytes."""
    descriptors = descriptors or []
    data = encode(message, len(descriptors))
    for start in range(0, len(descriptors), _AT_ONCE):
        rights = array.array("i", descriptors[start : start + _AT_ONCE])
        sock.sendmsg([data[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        data = data[1:]
    sock.sendall(data)


def receive(sock: socket.socket, decoder: Decoder) -> dict[str, object] | None:
    """Wait for one message on a blocking socket; None when the other side has closed."""
    while (found := decoder.next()) is None:
        if not read_once(sock, decoder):
            return None
    return found[0]
