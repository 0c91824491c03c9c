"""The words that supervisor and launcher exchange over one socketpair.

A message is a JSON object behind its length (4 bytes, big endian); file descriptors travel with
the first byte of the message that names them. The supervisor speaks first:

    supervisor -> launcher   {"start": {...}}          the whole cage (`cage_plan.CagePlan`)
    launcher -> supervisor   {"ready": {...}}          caged and waiting; the named sockets with it
                             {"failed": {stage, errno, text}}
    supervisor -> launcher   {"go": true}              exec now
    launcher -> supervisor   {"started": true}, {"exec_failed": {errno}}
    supervisor -> launcher   {"signal": n}, {"foreground": true},
                             {"connect": port, "address": text, "id": n}
    launcher -> supervisor   {"stopped": signal}, {"exited": code}, {"killed": signal}
                             {"connecting": id, "errno": n} with a socket that is connecting inside

The child never holds an end of this socket: it is closed in the child before anything of the
child's runs.
"""

from __future__ import annotations

import array
import json
import socket
import struct

# The start message carries argv and environment, which the kernel bounds at about 2 MiB (execve's
# ARG_MAX with the default stack limit); twice that leaves room for JSON escapes.
MAX_MESSAGE = 4 << 20
MAX_SOCKETS = 250  # the kernel's SCM_MAX_FD is 253; the transparent network needs two a port

_LENGTH = struct.Struct(">I")
_RIGHTS_SPACE = socket.CMSG_SPACE(MAX_SOCKETS * array.array("i").itemsize)


class ProtocolError(Exception):
    """The other side said something that is not of this protocol."""


def encode(message: dict[str, object]) -> bytes:
    """Return `message` behind its length."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=True).encode()
    return _LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts messages out of a byte stream; keeps file descriptors until their message is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def feed(self, data: bytes, descriptors: list[int]) -> None:
        """Take what one read gave."""
        self._buffer += data
        self._descriptors += descriptors

    def next(self) -> tuple[dict[str, object], list[int]] | None:
        """Return the next whole message with the descriptors that came so far, or None."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise ProtocolError(f"message of {length} bytes, expected at most {MAX_MESSAGE}")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        message = json.loads(bytes(self._buffer[_LENGTH.size : end]))
        del self._buffer[:end]
        if not isinstance(message, dict):
            raise ProtocolError(f"expected an object, got {type(message).__name__}")
        descriptors, self._descriptors = self._descriptors, []
        return message, descriptors


def read_once(sock: socket.socket, decoder: Decoder) -> bool:
    """Feed `decoder` with one read; return False at the end of the stream, however it came."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(1 << 16, _RIGHTS_SPACE)
    except ConnectionResetError:  # closed with something of ours unread
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
    """Send one message on a blocking socket, `descriptors` with its first byte."""
    data = encode(message)
    sent = 0
    if descriptors:
        rights = array.array("i", descriptors)
        sent = sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    sock.sendall(data[sent:])


def receive(sock: socket.socket, decoder: Decoder) -> dict[str, object] | None:
    """Wait for one message on a blocking socket; None when the other side has closed."""
    while (found := decoder.next()) is None:
        if not read_once(sock, decoder):
            return None
    return found[0]
