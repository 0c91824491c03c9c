"""Messages between supervisor and launcher: each has the descriptors that were sent with it."""

from __future__ import annotations

import os
import socket

import pytest

from nono_trio.sandbox.launcher import protocol


def read_all(sock: socket.socket, count: int) -> list[tuple[dict[str, object], list[int]]]:
    decoder = protocol.Decoder()
    found: list[tuple[dict[str, object], list[int]]] = []
    while len(found) < count:
        assert protocol.read_once(sock, decoder)
        while (message := decoder.next()) is not None:
            found.append(message)
    return found


def test_a_message_without_descriptors_takes_none_of_the_next() -> None:
    """One read may give both: their bytes lie behind each other in the socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull, "rb") as file:
        protocol.send(ours, {"stopped": 19})
        protocol.send(ours, {"connecting": 1}, [file.fileno()])
        protocol.send(ours, {"exited": 0})
        (stopped, none), (connecting, one), (exited, nothing) = read_all(theirs, 3)
        assert (stopped, connecting, exited) == ({"stopped": 19}, {"connecting": 1}, {"exited": 0})
        assert (none, len(one), nothing) == ([], 1, [])
        os.close(one[0])


@pytest.mark.parametrize("count", [1, 250, 251, 700])
def test_as_many_descriptors_as_are_sent_arrive_in_order(count: int) -> None:
    ours, theirs = socket.socketpair()
    names = [f"memory-{number}" for number in range(3)]
    files = [os.memfd_create(name) for name in names]
    with ours, theirs:
        protocol.send(ours, {"ready": count}, [files[number % 3] for number in range(count)])
        protocol.send(ours, {"exited": 0})
        (ready, arrived), _ = read_all(theirs, 2)
    assert ready == {"ready": count}
    for number, descriptor in enumerate(arrived):
        assert names[number % 3] in os.readlink(f"/proc/self/fd/{descriptor}")
    assert len(arrived) == count
    for descriptor in (*files, *arrived):
        os.close(descriptor)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 5000, b"9" * 5000])
def test_what_is_no_object_in_json_is_a_protocol_error(body: bytes) -> None:
    decoder = protocol.Decoder()
    decoder.feed(len(body).to_bytes(4, "big") + bytes(4) + body, [])
    with pytest.raises(protocol.ProtocolError):
        decoder.next()
