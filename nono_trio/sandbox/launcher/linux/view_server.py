"""The server of the answering view: it reports look-ups of files that are not granted.

The root of the view is a FUSE file system, and this process serves it. A name that leads to no
grant gets "no such file", after the supervisor has acknowledged that the look-up is in the log.

Rules: it is a process of the launcher, outside the cage's PID and user namespaces, and the only one
with the descriptor: when it ends, the kernel ends every waiting request. It waits for its three
descriptors only. It waits for an acknowledgement for at most ANSWER_SECONDS, and after such a delay
no request waits until the supervisor responds again. What the supervisor does not take at once is
kept for it and sent later. The number of names, of waiting requests and of kept bytes is bounded.
It opens one file: /proc/THREAD/syscall of the thread that waits.
"""

import contextlib
import errno
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from .. import protocol
from ..import_freeze import freeze_imports
from . import fuse_messages as fuse
from . import syscalls
from .creating_calls import creates_file, creating_calls
from .view_nodes import Node, numbered
from .view_reports import ACKNOWLEDGED, NO_PATH, Reports
from .view_tree import Place, TreeError, decode_tree, is_below

# A commit takes less than a millisecond, but a busy machine may be late; a person waits this long.
ANSWER_SECONDS: Final = 3.0
MOST_WAITING: Final = 256  # requests at a time: one for each thread of a busy build
MOST_NAMES: Final = 8192  # that were reported; an evicted one is reported again
MOST_LATE: Final = 8192  # answered without a record, which may still come
# Every program start looks for missing names here (/etc/ld.so.preload), so the kernel keeps them: a
# later create of such a name is not seen.
_SYSTEM: Final = ("/etc", "/usr", "/lib", "/lib64", "/dev")

_CHANGES: Final = frozenset(
    (
        fuse.SETATTR, fuse.SYMLINK, fuse.MKNOD, fuse.MKDIR, fuse.UNLINK, fuse.RMDIR, fuse.RENAME,
        fuse.LINK, fuse.OPEN, fuse.CREATE, fuse.RENAME2, fuse.TMPFILE,
    )
)  # fmt: skip
_UNANSWERED: Final = (fuse.FORGET, fuse.BATCH_FORGET, fuse.INTERRUPT)


def start(supervisor: socket.socket, closed: Sequence[socket.socket]) -> tuple[int, socket.socket]:
    """Fork the server, before the launcher enters its namespaces; return its pid and the launcher's
    end of its control socket. It takes `supervisor` along and closes `closed`.

    Its control socket carries {"fuse": true} with the descriptor, then {"tree": [...], ...}, then
    what the server holds until it ends; its end is the order to end. The server closes its own end
    of the socket when it is done.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        for sock in (ours, *closed):
            sock.close()
        syscalls.die_with_parent(signal.SIGKILL)
        if os.getppid() == parent:
            _serve(theirs, supervisor)
    finally:
        os._exit(0)


def _serve(control: socket.socket, supervisor: socket.socket) -> None:
    """Give up what the server does not need, then serve."""
    os.setsid()  # a signal to the supervisor's process group is no signal to this process
    os.chdir("/")
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    decoder = protocol.Decoder()
    device = _receive_device(control, decoder)
    freeze_imports()
    while (found := decoder.next()) is None:
        if not protocol.read_once(control, decoder):
            return
    message, held = found
    home = Home(str(message["home"]), held[0]) if held else None
    with contextlib.suppress(TreeError):
        tree = decode_tree(message["tree"])
        server = ViewServer(device, control, supervisor, tree, home=home)
        listed = message["listed"]
        server.listed = frozenset(listed if isinstance(listed, list) else ())
        server.has_tripwires = bool(message["watched"])
        server.run()
    os.close(device)
    supervisor.close()
    control.close()


def _receive_device(control: socket.socket, decoder: protocol.Decoder) -> int:
    while (found := decoder.next()) is None:
        if not protocol.read_once(control, decoder):
            os._exit(0)
    _, (device,) = found
    os.set_blocking(device, False)
    return device


class Home(NamedTuple):
    """The cage's own home at `path`, which is an overlay above FUSE; `descriptor` (O_PATH): its
    upper directory."""

    path: str
    descriptor: int

    def has(self, path: bytes) -> bool:
        """Return whether the cage has a file of its own at `path`, which is below the home."""
        inside = path[len(os.fsencode(self.path)) + 1 :]
        try:
            os.stat(inside, dir_fd=self.descriptor, follow_symlinks=False)
        except OSError:
            return False
        return True


class ViewServer:
    """The loop; `run` returns when the view is gone or the launcher has ended."""

    def __init__(
        self,
        device: int,
        control: socket.socket,
        supervisor: socket.socket,
        places: Sequence[Place],
        *,
        home: Home | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._control = control
        self._supervisor: socket.socket | None = supervisor
        self._clock = clock
        self._home = home
        self._nodes = numbered(places)
        self._creating = creating_calls()
        self._number = NO_PATH
        self.listed: frozenset[str] = frozenset()
        """Directories whose listing is reported like a look-up: it would name their entries."""
        self.has_tripwires = False
        self._waiting: dict[int, tuple[bytes, float]] = {}  # told number -> answer, deadline
        self._late: dict[int, None] = {}
        self._known: dict[tuple[int, bytes, bool], None] = {}
        self.is_answered = True
        """True while the supervisor answers in time."""
        self._held: list[int] = []
        supervisor.setblocking(False)
        self._reports = Reports(supervisor)

    def run(self) -> None:
        """Serve until the end."""
        poll = select.poll()
        for descriptor in (self._device, self._control.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            if self._supervisor is not None:
                sending = select.POLLOUT if self._reports.are_kept else 0
                poll.register(self._supervisor, select.POLLIN | sending)
            ready = dict(poll.poll(self._milliseconds()))
            events = 0 if self._supervisor is None else ready.get(self._supervisor.fileno(), 0)
            if events & select.POLLOUT:
                self._reports.send_kept()
            if events & ~select.POLLOUT:
                self._hear(poll)
            if self._device in ready and not self._serve_requests():
                break
            self._give_up_late()
            if self._control.fileno() in ready and not self._hold_what_comes():
                break
        if self._supervisor is not None:
            self._reports.end()

    def _hold_what_comes(self) -> bool:
        """Keep the descriptors that the launcher sends until the end; return False at its order."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 4096, 4)
        except OSError:
            return False
        self._held += descriptors
        return bool(data)

    def _milliseconds(self) -> float | None:
        """Return the time until the first request is late; None if no request waits."""
        if not self._waiting:
            return None
        _, deadline = next(iter(self._waiting.values()))  # in the order in which they came
        return max(0.0, (deadline - self._clock()) * 1000)

    def _hear(self, poll: select.poll) -> None:
        """Answer the look-ups that the supervisor acknowledges."""
        if self._supervisor is None:
            return
        try:
            data = self._supervisor.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            poll.unregister(self._supervisor)
            self._supervisor.close()
            self._supervisor = None
            self.is_answered = False
            for number in list(self._waiting):
                self._answer(number)
            return
        self.is_answered = True
        whole = len(data) - len(data) % ACKNOWLEDGED.size
        for (number,) in ACKNOWLEDGED.iter_unpack(data[:whole]):
            self._late.pop(number, None)
            self._answer(number)

    def _answer(self, number: int) -> None:
        found = self._waiting.pop(number, None)
        if found is not None:
            self._write(found[0])

    @property
    def kept(self) -> tuple[int, int, int]:
        """The numbers of names, of late answers and of waiting requests that are remembered."""
        return len(self._known), len(self._late), len(self._waiting)

    def _give_up_late(self) -> None:
        """Answer look-ups after ANSWER_SECONDS; no other waits until the supervisor responds."""
        now = self._clock()
        for number, (_, deadline) in list(self._waiting.items()):
            if deadline > now and self.is_answered:
                break
            self.is_answered = False
            self._is_late(number)
            self._answer(number)

    def _is_late(self, number: int) -> None:
        self._late[number] = None
        if len(self._late) > MOST_LATE:
            del self._late[next(iter(self._late))]

    def _serve_requests(self) -> bool:
        """Serve the kernel's requests; return False if the file system is unmounted."""
        for _ in range(MOST_WAITING):  # then look at the other descriptors
            try:
                message = os.read(self._device, fuse.READ_SIZE)
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):  # its caller was killed meanwhile
                    continue
                return False
            self._serve_one(fuse.parse_request(message))
        return True

    def _serve_one(self, request: fuse.Request) -> None:
        if request.operation == fuse.LOOKUP:
            self._look_up(request)
        elif request.operation == fuse.READDIR and self._is_listed(request.node):
            path = os.fsencode(self._nodes[request.node].place.path)
            answer = fuse.answer(request.unique, self._body(request))
            known = (request.node, b"", False)
            if not self._must_wait(request, known, path, answer):
                self._write(answer)
        elif request.operation not in _UNANSWERED:
            try:
                body = self._body(request)
            except OSError as error:
                self._write(fuse.refusal(request.unique, error.errno or errno.EIO))
            else:
                self._write(fuse.answer(request.unique, body))

    def _is_listed(self, number: int) -> bool:
        node = self._nodes.get(number)
        return node is not None and node.place.path in self.listed

    def _body(self, request: fuse.Request) -> bytes:
        """The answer to everything but a look-up; raises OSError."""
        operation = request.operation
        if operation == fuse.INIT:
            return fuse.init_body(request)
        if operation in _CHANGES:
            raise PermissionError(errno.EACCES, "")
        node = self._nodes.get(request.node)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "")
        if operation == fuse.GETATTR:
            return fuse.attributes_body(node.attributes)
        if operation == fuse.READLINK:
            return os.fsencode(node.place.target)
        if operation == fuse.OPENDIR:
            return fuse.open_body()
        if operation == fuse.READDIR:
            return fuse.directory_body(request, self._entries(request.node))
        if operation == fuse.STATFS:
            return fuse.space_body()
        if operation in (fuse.RELEASE, fuse.RELEASEDIR, fuse.DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "")

    def _entries(self, number: int) -> list[tuple[bytes, int, int]]:
        node = self._nodes[number]
        own = node.attributes.mode
        listed = [(b".", number, own), (b"..", number, own)]
        for name, child in node.children.items():
            listed.append((name, child, self._nodes[child].attributes.mode))
        return listed

    def _look_up(self, request: fuse.Request) -> None:
        parent = self._nodes.get(request.node)
        child = None if parent is None else parent.children.get(request.name)
        if child is not None:
            body = fuse.entry_body(self._nodes[child].attributes)
            self._write(fuse.answer(request.unique, body))
            return
        answer = fuse.refusal(request.unique, errno.ENOENT)
        if parent is None:
            self._write(answer)
        elif not self._is_told(request, parent, answer):
            if (request.node, request.name, False) in self._known and _is_system(parent.place.path):
                self._write(fuse.answer(request.unique, fuse.missing_body()))
            else:
                self._write(answer)

    def _is_told(self, request: fuse.Request, parent: Node, answer: bytes) -> bool:
        """Report a missing name; as `_must_wait`.

        A create in the home is allowed. It is reported as a look-up if it could hide the look-up of
        a tripwire (`open` with O_CREAT also reads). A call that is not known counts as a look-up in
        the home and as a create elsewhere, so that it can hide neither.
        """
        path = os.fsencode(parent.place.path.rstrip("/")) + b"/" + request.name
        is_create = creates_file(request.thread, self._creating)
        home = self._home
        if home is None or not path.startswith(os.fsencode(home.path) + b"/"):
            is_create = is_create is not False
        elif (is_create and not self.has_tripwires) or home.has(path):
            return False
        else:
            is_create = False
        return self._must_wait(request, (request.node, request.name, is_create), path, answer)

    def _must_wait(
        self, request: fuse.Request, known: tuple[int, bytes, bool], path: bytes, answer: bytes
    ) -> bool:
        """Report `path` once; return whether `answer` waits for the acknowledgement."""
        if known in self._known:
            return False
        creates = known[2]
        self._number = self._number % 0xFFFFFFFF + 1
        if self._supervisor is None:
            return False
        if not self._reports.send(self._number, request.thread, path, creates=creates):
            return False
        self._known[known] = None
        if len(self._known) > MOST_NAMES:
            del self._known[next(iter(self._known))]
        if not self.is_answered or len(self._waiting) >= MOST_WAITING:
            self._is_late(self._number)
            return False
        self._waiting[self._number] = (answer, self._clock() + ANSWER_SECONDS)
        return True

    def _write(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # its caller was killed
            os.write(self._device, message)


def _is_system(path: str) -> bool:
    return any(path == directory or is_below(path, directory) for directory in _SYSTEM)
