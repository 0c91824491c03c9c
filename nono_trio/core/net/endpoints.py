"""The two ends of a socket, by which the kernel finds its owner."""

from __future__ import annotations

from typing import Literal

import msgspec


class Endpoints(msgspec.Struct, frozen=True, gc=False):
    """A socket of a client: its own address and port, and those of the server.

    Addresses are text without a zone id, both of the same family.
    """

    protocol: Literal["tcp", "udp"]
    address: str
    port: int
    server: str
    server_port: int
