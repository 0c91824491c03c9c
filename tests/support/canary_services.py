"""The targets of canaries.py other than files: listeners that answer with the secret, IPC, keys.

The listeners keep all bytes that arrive, so that this side knows which attempts got through.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MPTCP, UDP_LITE, VSOCK = 262, 136, 40
KNOCK_SECONDS = 0.5
_REQUEST = re.compile(rb"^[A-Z]+ ")


class Listeners:
    """Sockets of every kind that this machine has; each answers with the secret."""

    def __init__(self, base: Path, secret: str) -> None:
        self.data = bytearray()
        self.described: dict[str, Any] = {}
        self._secret = secret
        self._base = base
        self._sockets: list[socket.socket] = []
        self._made: list[Path] = []
        self._open_network()
        self._open_unix()
        self._origin = Origin(self)
        self.described["origin"] = self._origin.server_address[1]
        self._start(self._origin.serve_forever)

    def seen(self, data: bytes) -> None:
        """Keep bytes that arrived; `Canaries.arrived` finds the tags in them."""
        self.data += data + b"\n"

    def _start(self, function: Any, *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _keep(self, sock: socket.socket) -> socket.socket:
        self._sockets.append(sock)
        return sock

    def _open_network(self) -> None:
        tcp = self._keep(socket.create_server(("0.0.0.0", 0)))
        port = tcp.getsockname()[1]
        self._start(self._accept, tcp)
        udp = self._keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("0.0.0.0", 0))
        self._start(self._answer, udp)
        with contextlib.suppress(OSError):
            tcp6 = self._keep(socket.socket(socket.AF_INET6, socket.SOCK_STREAM))
            tcp6.bind(("::1", port))
            tcp6.listen()
            self._start(self._accept, tcp6)
            udp6 = self._keep(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            udp6.bind(("::1", udp.getsockname()[1]))
            self._start(self._answer, udp6)
        self.described |= {
            "tcp": port, "tls": self._listen_for_tls(),
            "udp": udp.getsockname()[1], "address": own_address(),
            "other_loopback": "127.0.0.2", "proxy_port": self._listen_beside_the_proxy(),
            "mptcp": self._optional(socket.AF_INET, socket.SOCK_STREAM, MPTCP),
            "udplite": self._optional(socket.AF_INET, socket.SOCK_DGRAM, UDP_LITE),
            "vsock": self._optional(VSOCK, socket.SOCK_STREAM, 0),
        }  # fmt: skip

    def _listen_for_tls(self) -> int:
        """Open a port that is allowed for TLS to its own name, and that answers any bytes."""
        listener = self._keep(socket.create_server(("127.0.0.1", 0)))
        self._start(self._accept, listener)
        port: int = listener.getsockname()[1]
        return port

    def _listen_beside_the_proxy(self) -> int:
        """Listen on the proxy's later port number at another address than 127.0.0.1."""
        beside = self._keep(socket.create_server(("127.0.0.2", 0)))
        self._start(self._accept, beside)
        port: int = beside.getsockname()[1]
        return port

    def _optional(self, family: int, kind: int, protocol: int) -> int | None:
        try:
            sock = self._keep(socket.socket(family, kind, protocol))
            sock.bind((0xFFFFFFFF, 0xFFFFFFFF) if family == VSOCK else ("127.0.0.1", 0))
            if kind == socket.SOCK_STREAM:
                sock.listen()
        except OSError:
            return None
        self._start(self._accept if kind == socket.SOCK_STREAM else self._answer, sock)
        port: int = sock.getsockname()[1]
        return port

    def _open_unix(self) -> None:
        """Open sockets where other programs have theirs, each under a name that no program uses."""
        own = f"nono-trio-escape-{os.getpid()}"
        places = {
            "run": first_writable("/run", "/run/lock", "/tmp") / f"{own}.sock",
            "agent": Path("/tmp", f"ssh-{own}", "agent.1"),
            "tmux": Path("/tmp", f"tmux-{own}", "default"),
            "x11": first_writable("/tmp/.X11-unix", "/tmp") / f"X-{own}",
            "home": self._base / "home" / "agent.sock",
            "elsewhere": self._base / "outside.sock",
            "movable": self._base / "movable.sock",
            "granted": self._base / "project" / "service.sock",
            "passing": self._base / "project" / "passing.sock",
            "datagram": self._base / "datagram.sock",
            "seqpacket": self._base / "seqpacket.sock",
        }
        kinds = {"datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET}
        for which, path in places.items():
            if not path.parent.exists():
                path.parent.mkdir(mode=0o700)
                self._made.append(path.parent)
            self._serve_unix(str(path), kinds.get(which, socket.SOCK_STREAM), which)
            self._made.insert(0, path)
        abstract = {
            "stream": f"{own}-stream", "datagram": f"{own}-datagram",
            "seqpacket": f"{own}-seqpacket", "x11": f"/tmp/.X11-unix/X-{own}",
        }  # fmt: skip
        for which, name in abstract.items():
            self._serve_unix("\0" + name, kinds.get(which, socket.SOCK_STREAM), which)
        self.described["unix"] = {which: str(path) for which, path in places.items()}
        self.described["abstract"] = abstract

    def _serve_unix(self, name: str, kind: int, which: str) -> None:
        sock = self._keep(socket.socket(socket.AF_UNIX, kind))
        sock.bind(name)
        if kind == socket.SOCK_DGRAM:
            self._start(self._answer, sock)
            return
        sock.listen()
        self._start(self._accept, sock, self._pass_directory if which == "passing" else None)

    def _accept(self, listener: socket.socket, serve: Any = None) -> None:
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                connection, _ = listener.accept()
                self._start(serve or self._converse, connection)

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                self.seen(data)
                connection.sendall(self._word(data))

    def _word(self, data: bytes) -> bytes:
        """The secret; as an HTTP response if `data` is an HTTP request."""
        if not _REQUEST.match(data):
            return self._secret.encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: 32\r\n\r\n" + self._secret.encode()

    def _answer(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, sender = sock.recvfrom(65_536)
                self.seen(data)
                with contextlib.suppress(OSError):  # the sender may have ended, or have no name
                    sock.sendto(self._secret.encode(), sender)

    def _pass_directory(self, connection: socket.socket) -> None:
        """Act like a careless program: give every client a directory of the user."""
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            directory = os.open(self._base / "outside", os.O_RDONLY)
            rights = array.array("i", [directory])
            connection.sendmsg([b"here"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            os.close(directory)

    def knock(self, port: int) -> None:
        """Connect to a port of this machine's loopback, as any program outside can."""
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=KNOCK_SECONDS)
            self._start(self._converse, connection)

    def close(self) -> None:
        """Close and remove everything."""
        self._origin.shutdown()
        self._origin.server_close()
        for sock in self._sockets:
            sock.close()
        for path in self._made:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


class Origin(ThreadingHTTPServer):
    """The one host that the policy allows; answers with path and Host, and has no secret."""

    daemon_threads = True

    def __init__(self, listeners: Listeners) -> None:
        super().__init__(("127.0.0.1", 0), _OriginAnswer)
        self.listeners = listeners

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no traceback: clients that vanish are normal here."""


class _OriginAnswer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Origin

    def do_GET(self) -> None:
        self._drain()
        self.server.listeners.seen(f"{self.path} {self.headers.get('Host')}".encode())
        body = f"saw {self.path.lstrip('/')} at {self.headers.get('Host')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def do_DELETE(self) -> None:
        """Read no body, like many servers, which expect none."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _drain(self) -> None:
        """Read the body leniently: chunked if the field is exactly that, otherwise by length."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
            return
        self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def own_address() -> str:
    """An address of this machine that is not loopback, if it has one. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.3"
        address: str = sock.getsockname()[0]
        return address


def first_writable(*directories: str) -> Path:
    return Path(next(path for path in directories if os.access(path, os.W_OK)))


class Objects:
    """IPC objects and keys of the user; each contains the secret."""

    def __init__(self, secret: str) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._secret = secret.encode()
        self._name = f"nono-trio-escape-{os.getpid()}"
        self.described: dict[str, Any] = {}
        self._undo: list[Any] = []
        self._make_files()
        self._make_system_v()
        self._make_queue()
        self._make_key()

    def _make_files(self) -> None:
        for name, directory in (("tmp_file", "/tmp"), ("shm_file", "/dev/shm")):
            path = Path(directory, f"{self._name}-{name}")
            path.write_bytes(self._secret.ljust(64))
            self.described[name] = str(path)
            self._undo.append(path.unlink)
        self.described["posix_memory"] = self.described["shm_file"]

    def _make_system_v(self) -> None:
        libc, key = self._libc, 0x6E6F0000 | os.getpid() & 0xFFFF
        libc.shmat.restype = ctypes.c_void_p
        memory = libc.shmget(key, 4096, 0o1600)
        queue = libc.msgget(key, 0o1600)
        semaphore = libc.semget(key, 1, 0o1600)
        self._undo += [
            lambda: libc.shmctl(memory, 0, None), lambda: libc.msgctl(queue, 0, None),
            lambda: libc.semctl(semaphore, 0, 0),
        ]  # fmt: skip
        if min(memory, queue, semaphore) < 0:
            return
        address = libc.shmat(memory, None, 0)
        ctypes.memmove(address, self._secret, len(self._secret))
        message = struct.pack("=q", 1) + self._secret
        libc.msgsnd(queue, message, len(self._secret), 0)
        self.described["ipc_key"] = key

    def _make_queue(self) -> None:
        name = f"/{self._name}".encode()
        descriptor = self._libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)
        if descriptor < 0:
            return
        self._libc.mq_send(descriptor, self._secret, len(self._secret), 0)
        self._undo.append(lambda: self._libc.mq_unlink(name))
        self.described["posix_queue"] = self._name

    def _make_key(self) -> None:
        """Make one key, linked from the session keyring and from the user's keyring."""
        number = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)
        if number is None:
            return
        add_key, keyctl = (ctypes.c_long(each) for each in number)
        call = self._libc.syscall
        call(keyctl, 1, None)  # a session keyring of our own
        name = self._name.encode()
        key = call(add_key, b"user", name, self._secret, len(self._secret), -3)
        if key < 0:
            return
        call(keyctl, 8, key, -4)  # KEYCTL_LINK to the user's
        self._undo.append(lambda: call(keyctl, 9, key, -4))
        self.described["key"] = self._name

    def close(self) -> None:
        """Remove all objects."""
        for undo in self._undo:
            with contextlib.suppress(OSError):
                undo()
