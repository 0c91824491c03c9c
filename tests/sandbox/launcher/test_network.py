"""The sockets of the transparent network."""

from __future__ import annotations

import socket
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")


def test_a_burst_of_queries_has_room() -> None:
    """A lost query fails a judged run, so that a job with many names at once must lose none."""
    from nono_trio.sandbox.launcher.linux.network import bind

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
        bind(socket.AF_INET, socket.SOCK_DGRAM, 0, "127.0.0.1") as ours,
    ):
        size = ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        assert size > plain.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
