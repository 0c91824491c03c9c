"""Tries on this machine what attribution needs: for `doctor`."""

from __future__ import annotations

import os
import socket

from nono_trio.core.net.endpoints import Endpoints
from nono_trio.sandbox.attribution.process import sockets_of
from nono_trio.sandbox.attribution.socket_diag import SocketDiag
from nono_trio.sandbox.launcher.linux.netlink import open_socket_diag


def why_not() -> str | None:
    """Find the holder of a connection of our own; return why that fails, None if it works."""
    diag = open_socket_diag()
    if diag is None:
        return "the kernel has no NETLINK_SOCK_DIAG sockets (CONFIG_INET_DIAG)"
    asking = SocketDiag(diag)
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
            client.connect(server.getsockname())
            (inode,) = asking.inodes(
                [Endpoints("tcp", *client.getsockname(), *server.getsockname())]
            )
            held = {link for _, link in sockets_of(os.getpid())}
            if f"socket:[{inode}]" not in held:
                return "the kernel does not say which socket a connection is (CONFIG_INET_TCP_DIAG)"
            os.stat(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    except OSError as error:
        return f"{error.filename or 'loopback'}: {error.strerror or error}"
    finally:
        asking.close()
    return None
