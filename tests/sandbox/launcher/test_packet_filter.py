"""The filter of the capture, run by the kernel for the datagrams of an ordinary socket."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="packet filters are Linux's")

SYN, ACK = 0x02, 0x10


def first_packet(target: str, port: int, flags: int = SYN) -> bytes:
    address = ip_address(target)
    transport = struct.pack("!2H8x2B", 40000, port, 0x50, flags) + bytes(6)
    return _head(address, 6) + address.packed + transport


def datagram(target: str, port: int) -> bytes:
    address = ip_address(target)
    return _head(address, 17) + address.packed + struct.pack("!4H", 40000, port, 8, 0)


def _head(address: IPv4Address | IPv6Address, protocol: int) -> bytes:
    if address.version == 4:
        return struct.pack("!2B3H2BH", 0x45, 0, 40, 0, 0, 64, protocol, 0) + bytes(4)
    return struct.pack("!IHBB", 6 << 28, 20, protocol, 64) + bytes(16)


def passed(packets: list[bytes], networks: list[str]) -> list[bytes]:
    from nono_trio.sandbox.launcher.linux.packet_filter import attach, refused_attempts
    from nono_trio.sandbox.launcher.linux.tproxy import masked

    ports = [80, 53, *range(1000, 1110)]
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, kernel:
        ours.setblocking(False)
        attach(ours, refused_attempts(ports, 53, [masked(one) for one in networks]))
        found = []
        for packet in packets:
            kernel.send(packet)
            try:
                found.append(ours.recv(256))
            except BlockingIOError:
                continue
        return found


SEEN = [
    first_packet("192.0.2.1", 22), first_packet("2001:db8::1", 22), first_packet("10.1.2.3", 22),
    datagram("198.19.150.1", 9), datagram("fd6e:6f6e:6f2d:1::5", 9),
    first_packet("198.19.127.255", 22), first_packet("fd6e:6f6e:6f2d:2::5", 22),
]  # fmt: skip
UNSEEN = [
    first_packet("192.0.2.1", 80), first_packet("2001:db8::1", 1109), datagram("192.0.2.1", 53),
    first_packet("192.0.2.1", 22, ACK), b"\x45", b"",
]  # fmt: skip
OF_NETWORKS = [
    first_packet("198.19.150.1", 22), first_packet("fd6e:6f6e:6f2d:1::5", 22),
    first_packet("192.0.2.7", 22), first_packet("2001:db8::7", 22),
]  # fmt: skip
NETWORKS = ["198.19.128.0/18", "fd6e:6f6e:6f2d:1::/64", "192.0.2.7/32", "2001:db8::7/128"]


def test_connections_that_a_listener_for_every_port_gets_do_not_fill_the_buffer() -> None:
    """Before: each of them took room there, and a busy allowed host failed a judged run."""
    assert passed([*SEEN, *UNSEEN, *OF_NETWORKS], NETWORKS) == SEEN
    assert passed([*SEEN, *UNSEEN, *OF_NETWORKS], []) == [*SEEN, *OF_NETWORKS]
    assert passed([*SEEN, *OF_NETWORKS], ["0.0.0.0/0", "::/0"]) == SEEN[3:5]


def test_many_networks_still_make_a_program() -> None:
    networks = [f"2001:db8::{number:x}/128" for number in range(1, 500)]
    last, beyond = first_packet("2001:db8::40", 22), first_packet("2001:db8::41", 22)
    assert passed([last, beyond, SEEN[0]], networks) == [beyond, SEEN[0]]


OWN_PORT = """
import socket
from nono_trio.sandbox.launcher.linux import namespaces
from nono_trio.sandbox.launcher.linux.network import OuterNetwork
namespaces.enter_namespaces()
sockets = OuterNetwork([80], ["198.19.128.0/18"]).sockets
if "tcp4:*" in sockets:
    captured = sockets["refused"]
    captured.setblocking(False)
    ports = [sockets[name].getsockname()[1] for name in ("tcp4:*", "tcp6:*")]
    print(len(set(ports)))
    for address in ("192.0.2.1", "2001:db8::1"):
        socket.create_connection((address, ports[0]), 60).close()
    try:
        print(captured.recv(128))
    except BlockingIOError:
        print("none")
else:
    print("no tproxy")
"""


def test_the_port_of_the_listener_for_every_port_is_no_refused_one() -> None:
    """Before: a connection to that port of a denied address was recorded twice."""
    done = subprocess.run(
        [sys.executable, "-c", OWN_PORT], capture_output=True, text=True, check=False, timeout=60
    )
    if done.stdout == "no tproxy\n":
        pytest.skip("this kernel has no tproxy")
    assert done.stdout == "1\nnone\n", done.stderr
