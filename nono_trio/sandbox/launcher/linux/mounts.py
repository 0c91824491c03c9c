"""The child's file system view: a new root that shows only granted paths.

Landlock controls opening files, but not `connect()` on a socket's path: a process can use any ssh
agent, docker or tmux socket that has a visible path. So paths that are not granted do not exist in
the view. Road not taken: covering the known socket directories one by one; such a list is never
complete.

Rules: paths granted for reading are mounted read-only (Landlock rules are inherited downwards, so
the private /tmp alone would make every grant below it writable); a symlink on the way to a grant is
made again, with the same text; `/proc`, `/tmp`, `/dev/shm`, `/dev/pts` are new and private, unless
the user granted the host's directory by name. Every directory between a grant and a covered or
read-only path inside it becomes a mount of its own: a mount point can't be renamed, so no other
directory can take its place on the host. A shown file must have the device and inode that it had
when the plan was made. Runs in PID 1 of the cage, because only a process inside the PID namespace
may mount its `/proc`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, get_args

from ..cage_plan import MountKind
from ..steps import StageError
from ..symlinks import follow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cage_plan import Identity, MountOp
    from ..symlinks import Followed
    from .view_mount import AnsweringView
from . import syscalls
from .mount_points import MountPoints
from .view_mount import HomeLayers

# The new root is mounted here for a moment. Any directory of the host will do, because the mount
# exists in our own namespace only.
_STAGING = "/tmp"
_OLD = "/old"
_NEW = "/new"
_ANSWERING = "/answering"
_HOME = "/home-layers"
# Our own files that are mounted into the view. They lie next to it, because with --no-sandbox its
# root is the host's own, where the cage must leave no files.
_COVER = "/closed"  # the empty file that covers a closed one
_REPLACED = "/replaced-"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# Symlinks of the system: programs use granted directories by these names too.
_OTHER_NAMES = ("/var/run", "/var/lock")
# For mount points and a few small files of ours. The default size would be half of memory.
_ROOT_OPTIONS = "mode=0755,size=16m"


def build_view(mounts: Sequence[MountOp], answering: AnsweringView | None = None) -> None:
    """Make the new root out of `mounts` and enter it; `answering`: over a root that answers for
    what is not in it, where that can be had.

    Mounts are made kind by kind in the order below, whatever their order in the list: mounts that
    hide come after mounts that show. Raises OSError with the path that could not be mounted, and
    StageError for a path whose file has changed since the plan was made.
    """
    _enter_staging()
    view = _View(answers=answering is not None and answering.why_not is None)
    of_kind = {kind: [op for op in mounts if op.kind == kind] for kind in get_args(MountKind)}
    own = [*of_kind["private"], *of_kind["empty_home"], *of_kind["kept_home"]]
    _mount_trees(view, of_kind["bind"], own)
    for path in _OTHER_NAMES:
        view.follow(path)
    view.make_links()
    for op in of_kind["directory"]:
        view.points.make_directory(op.path)
    view.pin([op.path for op in (*of_kind["read_only"], *of_kind["cover"])])
    for op in of_kind["read_only"]:  # before the covers, which its mounts would hide
        view.keep(op.path)
    for op in of_kind["cover"]:
        view.cover(op.path)
    for op in of_kind["text"]:
        view.replace(op.path, op.text)
    for op in of_kind["host_file"]:
        view.show_file(op)
    view.make_links()
    _mount_system(view)
    for op in of_kind["stream"]:
        view.add_stream(op)
    answers = answering is not None and answering.show(_NEW, _ANSWERING, view.layers)
    os.chdir(_ANSWERING if answers else _NEW)
    syscalls.pivot_root(".", ".")
    syscalls.unmount(".")
    os.chdir("/")


def _mount_trees(view: _View, binds: Sequence[MountOp], own: Sequence[MountOp]) -> None:
    """Mount the granted paths of the host and the cage's own directories.

    Parents first: a grant below a private directory must be bound over it, not under it.
    """
    shown: dict[str, MountOp] = {}
    for op in binds:
        real, _, exists = view.follow(op.path)
        if exists:
            before = shown.get(real, op)
            writable, identity = before.writable or op.writable, op.identity or before.identity
            shown[real] = op._replace(writable=writable, identity=identity)
    made = {op.path: op for op in own}
    for path in sorted({*shown, *made}, key=_depth):
        if path in made:
            view.add_own(made[path])
            continue
        view.bind(path, writable=shown[path].writable)
        if (identity := shown[path].identity) is not None:
            require_same(_NEW + path, path, identity)


def require_same(path: str | int, name: str, expected: Identity | None) -> None:
    """Raise StageError if the file at `path`, or held open, is not the expected one."""
    found = os.stat(path)
    if (found.st_dev, found.st_ino) != expected:
        raise changed(name)


def changed(name: str) -> StageError:
    """Return the error for a granted path that leads to another file than before."""
    cause = OSError(errno.ESTALE, f"{name} is not what it was when it was checked")
    return StageError("grants", cause)


def _depth(path: str) -> tuple[int, str]:
    return (path.rstrip("/").count("/"), path)


def _enter_staging() -> None:
    """Replace the root by an empty tmpfs with the host at /old and the future view at /new."""
    syscalls.mount("", "/", "", syscalls.MS_PRIVATE | syscalls.MS_REC)
    syscalls.mount(
        "tmpfs", _STAGING, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _ROOT_OPTIONS
    )
    os.mkdir(_STAGING + _OLD)
    os.mkdir(_STAGING + _NEW)
    syscalls.pivot_root(_STAGING, _STAGING + _OLD)
    os.chdir("/")
    syscalls.mount("tmpfs", _NEW, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _ROOT_OPTIONS)


class _View:
    """The mounts and symlinks made under /new so far, by the path that the child will see."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.layers: HomeLayers | None = None
        # path -> "private", "home", "read-only" or "writable"
        self._mounts: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self.points = MountPoints(_NEW)

    def bind(self, real: str, *, writable: bool) -> None:
        """Show the host's `real`, an existing path without symlinks.

        Devices are mounted read-only: writing to a device still works, changing its mode does not.
        """
        writable = writable and not stat.S_ISCHR(os.stat(_OLD + real).st_mode)
        above = self._mount_above(real)
        if above == "writable" or (above == "read-only" and not writable):
            return
        source = _OLD + real
        if stat.S_ISDIR(os.stat(source).st_mode):
            self.points.make_directory(real)
        else:
            self.points.make_file(real)
        syscalls.mount(source, _NEW + real, "", syscalls.MS_BIND | syscalls.MS_REC)
        if not writable:
            syscalls.make_read_only(_NEW + real)
        self._mounts[real] = "writable" if writable else "read-only"

    def add_own(self, op: MountOp) -> None:
        """Put a directory of the cage's own at `op.path`: private to the session, or its home."""
        self.points.make_directory(op.path)
        if op.kind == "kept_home":
            syscalls.mount(_OLD + op.source, _NEW + op.path, "", syscalls.MS_BIND)
            if op.work and self._answers and not self._is_covered(op.path):
                self._layer_kept(op)
        else:
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
            mode = "1777" if op.kind == "private" else "0700"
            options = f"mode={mode},size={op.size},nr_inodes={op.files}"
            if op.kind == "empty_home" and self._answers and not self._is_covered(op.path):
                self._layer_home(op.path, flags, options)
            else:
                syscalls.mount("tmpfs", _NEW + op.path, "tmpfs", flags, options)
        if op.kind == "private":
            self._mounts[op.path] = "private"
        else:
            self._mounts[op.path] = "home"
            self.points.home = op.path

    def _is_covered(self, path: str) -> bool:
        """Tell whether `path` lies in a directory of the host that the view shows."""
        return self._mount_above(os.path.dirname(path)) != "private"

    def _layer_home(self, path: str, flags: int, options: str) -> None:
        """Make the home with room beside it for what an overlay needs."""
        os.mkdir(_HOME)
        syscalls.mount("tmpfs", _HOME, "tmpfs", flags, options)
        for name in ("upper", "work", "lower"):
            os.mkdir(f"{_HOME}/{name}", 0o700)
        self.layers = HomeLayers(path, _HOME, "upper", "work", f"{_HOME}/lower")
        syscalls.mount(f"{_HOME}/upper", _NEW + path, "", syscalls.MS_BIND)

    def _layer_kept(self, op: MountOp) -> None:
        """Remember where the kept home lies, whose files are an overlay's upper ones."""
        lower = f"{_HOME}/lower"
        os.makedirs(lower, 0o700)
        directory, upper = os.path.split(_OLD + op.source)
        self.layers = HomeLayers(op.path, directory, upper, op.work, lower, is_kept=True)

    def cover(self, real: str) -> None:
        """Hide `real`, if the view shows it.

        Raises StageError if it was removed since the plan was made: it may come back.
        """
        if self._mount_above(real) == "home":  # the cage's own home hides the host's
            return
        if not os.path.lexists(_NEW + real):
            if self._mount_above(real) == "private":
                return
            raise changed(real)
        if os.path.isdir(_NEW + real):
            flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
            syscalls.mount("tmpfs", _NEW + real, "tmpfs", flags, "mode=0,size=4k")
        else:
            _write_file(_COVER, "", mode=0)
            syscalls.mount(_COVER, _NEW + real, "", syscalls.MS_BIND)
        syscalls.make_read_only(_NEW + real)

    def keep(self, real: str) -> None:
        """Show the host's `real` read-only inside a writable mount, if the view shows it."""
        if not os.path.lexists(_NEW + real) or self._mount_above(real) == "home":
            return
        syscalls.mount(_OLD + real, _NEW + real, "", syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.make_read_only(_NEW + real)

    def pin(self, inner: list[str]) -> None:
        """Make every directory between a writable mount and one of `inner` a mount itself.

        A mount point can't be renamed or removed by any of its names, nor from a nested mount
        namespace, where every mount is locked.
        """
        between = {path for real in inner for path in self._between(real)}
        for path in sorted(between, key=_depth):  # outer mounts first: they would hide inner ones
            found = os.lstat(_OLD + path)
            if not stat.S_ISDIR(found.st_mode):  # it was a directory when it was planned
                raise changed(path)
            syscalls.mount(_OLD + path, _NEW + path, "", syscalls.MS_BIND | syscalls.MS_REC)
            require_same(_NEW + path, path, (found.st_dev, found.st_ino))

    def _between(self, path: str) -> list[str]:
        """Return the directories between `path` and the writable mount that shows it, if any."""
        if self._mount_above(path) != "writable" or not os.path.lexists(_NEW + path):
            return []
        found = []
        while (path := os.path.dirname(path)) not in (*self._mounts, "/"):
            found.append(path)
        return found

    def replace(self, path: str, text: str) -> None:
        """Show a file with `text` at `path`, in place of the host's.

        In a directory of the host a file must exist to mount it on (see network_files.py).
        """
        parent = self.follow(os.path.dirname(path))
        directory = parent.real if parent.exists else os.path.dirname(path)
        real = os.path.join(directory, os.path.basename(path))
        if self._mount_above(real) != "private":  # in the host's directory: follow a symlink
            real = self.follow(path).real
        if not os.path.lexists(_NEW + real):
            if self._mount_above(real) != "private":
                return
            self.points.make_file(real)
        if not stat.S_ISREG(os.lstat(_NEW + real).st_mode):
            return
        ours = _REPLACED + os.path.basename(path)
        _write_file(ours, text, mode=0o644)
        syscalls.mount(ours, _NEW + real, "", syscalls.MS_BIND)
        syscalls.make_read_only(_NEW + real)

    def show_file(self, op: MountOp) -> None:
        """Show a file of ours read-only at `op.path`, outside of the host's mounts."""
        self.points.make_file(op.path)
        syscalls.mount(_OLD + op.source, _NEW + op.path, "", syscalls.MS_BIND)
        require_same(_NEW + op.path, op.path, op.identity)
        syscalls.make_read_only(_NEW + op.path)

    def add_stream(self, op: MountOp) -> None:
        """Show the file or terminal that a standard stream has open.

        Does nothing if the file has changed, or if it needs a mount point in the host's directory.
        """
        try:
            found = os.stat(_OLD + op.source)
        except OSError:
            return
        if (found.st_dev, found.st_ino) != op.identity:
            return
        if not os.path.lexists(_NEW + op.path):
            if self._mount_above(op.path) != "private":
                return
            self.points.make_file(op.path)
        syscalls.mount(_OLD + op.source, _NEW + op.path, "", syscalls.MS_BIND)
        if not op.writable or stat.S_ISCHR(found.st_mode):  # as in `bind`
            syscalls.make_read_only(_NEW + op.path)
        require_same(_NEW + op.path, op.path, op.identity)

    def _mount_above(self, path: str) -> str:
        """Return the kind of mount that shows `path`; "private" if it has no files of the host."""
        while True:
            mount = self._mounts.get(path)
            if mount is not None or path == "/":
                return mount or "private"
            path = os.path.dirname(path)

    def follow(self, path: str) -> Followed:
        """Follow every symlink of the host's `path`; `make_links` makes each of them again."""
        targets: dict[str, str | None] = {}
        followed = follow(path, targets, root=_OLD)
        for link in followed.links:
            self._links[link] = targets[link] or ""
        return followed

    def make_links(self) -> None:
        """Make the symlinks that `follow` found; call it after the mounts that hold them."""
        for path, target in self._links.items():
            self.make_link(path, target)
        self._links.clear()

    def make_link(self, path: str, target: str) -> None:
        """Make a symlink, unless the path exists or its directory is the host's."""
        if self._mount_above(path) not in ("private", "home") or os.path.lexists(_NEW + path):
            return
        self.points.make_directory(os.path.dirname(path))
        os.symlink(target, _NEW + path)


def _mount_system(view: _View) -> None:
    view.points.make_directory("/proc")
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", _NEW + "/proc", "proc", flags)
    for name in _DEVICES:
        if os.path.exists(f"{_OLD}/dev/{name}"):
            view.bind(f"/dev/{name}", writable=True)
    view.points.make_directory("/dev/pts")
    syscalls.mount(
        "devpts", _NEW + "/dev/pts", "devpts", syscalls.MS_NOSUID | syscalls.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )  # fmt: skip
    for name, target in _DEVICE_LINKS.items():
        view.make_link(f"/dev/{name}", target)


def _write_file(path: str, text: str, *, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
