"""The two ends of an accepted connection are told as the kernel tells them of its socket."""

from __future__ import annotations

import socket

import pytest

from nono_trio.core.net.endpoints import Endpoints
from nono_trio.proxy.listeners.origin import origin_of, origins_at


@pytest.mark.parametrize(
    ("family", "bound", "asked"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "127.0.0.2", "127.0.0.2"),
        (socket.AF_INET, "0.0.0.0", "127.0.0.3"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::1"),
    ],
)
def test_the_ends_are_those_of_the_socket(family, bound, asked):
    with socket.create_server((bound, 0), family=family) as listener:
        origin = origins_at(listener)
        for _ in range(2):
            with socket.create_connection((asked, listener.getsockname()[1])) as client:
                accepted, peer = listener.accept()
                with accepted:
                    found = origin(accepted, peer)
                    assert found == origin_of(accepted)
                    assert found == Endpoints(
                        "tcp", *client.getsockname()[:2], asked, listener.getsockname()[1]
                    )


def test_a_unix_socket_has_no_ends(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, peer = listener.accept()
        with accepted:
            assert origins_at(listener)(accepted, peer) is None
            assert origin_of(accepted) is None


class Bound:
    """A listener at a link-local address, which not every machine has."""

    def getsockname(self) -> tuple[str, int, int, int]:
        return "fe80::1%eth0", 80, 0, 2


def test_the_zone_of_a_link_local_address_is_left_out():
    origin = origins_at(Bound())  # type: ignore[arg-type]
    found = origin(None, ("fe80::2%eth0", 4000, 0, 2))  # type: ignore[arg-type]
    assert found == Endpoints("tcp", "fe80::2", 4000, "fe80::1", 80)
