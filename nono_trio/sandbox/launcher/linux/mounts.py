"""The child's file system view: a fresh root that holds what was granted and nothing else.

Landlock decides what may be opened, but it does not look at `connect()` on a socket's path: an
ssh agent, a docker or a tmux socket that can be named can be used. So what is not granted is not
there to be named. The road not taken: covering the known socket directories one by one, which is
a list that is never finished.

Rules: what was granted for reading is mounted read-only (Landlock alone would let the private /tmp
make every grant below it writable, since its rules are inherited downwards); a symlink on the way
to a grant is made again, with the same text; `/proc`, `/tmp`, `/dev/shm`, `/dev/pts` are new and
private, unless the user granted the host's directory by name. Every directory between a grant and
what is covered or read-only inside it becomes a mount of its own, which nobody can rename: else
another directory could be put in its place on the host. What is shown is what was looked at when
the plan was made, by device and inode. Runs in PID 1 of the cage, since only a process inside the
PID namespace may mount its `/proc`.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Any

from ..hostile_tree import entered, make_directories
from ..steps import StageError
from . import syscalls

# Any directory of the host will do to hang the new root on for a moment, as everything is
# mounted over it in our own namespace only.
_STAGING = "/tmp"
_OLD = "/old"
_NEW = "/new"
# Files of ours that are mounted into the view: next to it and not in it, as its root may be the
# host's own (--no-sandbox), where nothing is to be left behind.
_COVER = "/closed"  # the empty file that stands in for a closed one
_REPLACED = "/replaced-"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
# Links of the system by which programs call what is granted by its other name.
_OTHER_NAMES = ("/var/run", "/var/lock")
# Mount points, and a few small files of ours: without a size of its own it would be half of memory.
_ROOT_OPTIONS = "mode=0755,size=16m"
_MAX_LINKS = 40  # the kernel's own limit on symlinks in one path (ELOOP)


def build_view(
    paths: list[tuple[str, bool]],
    identities: dict[str, tuple[int, int]],
    private: list[tuple[str, int, int]],
    directories: list[str],
    covered: list[str],
    kept: list[str],
    replaced: dict[str, str],
    streams: dict[str, tuple[str, bool, tuple[int, int]]],
    home: dict[str, Any] | None = None,
    denials: dict[str, Any] | None = None,
) -> None:
    """Make the new root and enter it.

    `paths` are bound from the host, each with whether it may be written; `identities` are device
    and inode that they must have. `private` become empty tmpfs mounts (mode 1777), each with its
    bytes and its number of files, and `directories` are made empty so that they can be named (the
    home, the start directory). `covered` paths, which lie inside what is shown, are hidden behind
    something empty that nobody may open, `kept` ones are there read-only; `replaced` files have a
    text of ours, `streams` what the caller handed over, by its path in the view. `home`: the cage's
    own, under the grants that lie below it; `denials`: a file of the supervisor's, read-only.
    Raises OSError with the path that could not be mounted, and StageError for one that is not what
    it was.
    """
    _enter_staging()
    view = _View()
    shown: dict[str, bool] = {}
    expected: dict[str, tuple[int, int]] = {}
    for path, writable in paths:
        real = view.follow(path)
        if real is not None:
            shown[real] = shown.get(real, False) or writable
            if path in identities:
                expected[real] = identities[path]
    sizes = {path: (size, files) for path, size, files in private}
    # Parents first, so that a grant below a private directory is bound over it, not under it.
    for path in sorted({*shown, *sizes, *([home["path"]] if home else [])}, key=_depth):
        if path in sizes:
            view.add_private(path, *sizes[path])
        elif home is not None and path == home["path"]:
            view.add_home(path, home["kept"], home["options"])
        else:
            view.bind(path, writable=shown[path])
            if path in expected:
                require_same(_NEW + path, path, expected[path])
    for path in _OTHER_NAMES:
        view.follow(path)
    view.make_links()
    for path in directories:
        view.make_directory(path)
    view.pin([*kept, *covered])
    for path in kept:  # before the covers, which its mounts would hide
        view.keep(path)
    for path in covered:
        view.cover(path)
    for path, text in replaced.items():
        view.replace(path, text)
    if denials is not None:
        view.show_file(denials["source"], denials["path"], denials["identity"])
    view.make_links()
    _mount_system(view)
    for path, (source, writable, identity) in streams.items():
        view.add_stream(path, source, identity, writable=writable)
    os.chdir(_NEW)
    syscalls.pivot_root(".", ".")
    syscalls.unmount(".")
    os.chdir("/")


def require_same(path: str | int, name: str, expected: tuple[int, int]) -> None:
    """Raise StageError if what is at `path`, or held, is not what was there when the plan was
    made."""
    found = os.stat(path)
    if (found.st_dev, found.st_ino) != tuple(expected):
        raise changed(name)


def changed(name: str) -> StageError:
    """For a grant at whose path something else is by now."""
    cause = OSError(errno.ESTALE, f"{name} is not what it was when it was checked")
    return StageError("grants", cause)


def _depth(path: str) -> tuple[int, str]:
    return (path.rstrip("/").count("/"), path)


def _enter_staging() -> None:
    """Swap the root for an empty tmpfs with the host at /old and the view's place at /new."""
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
    """What has been put under /new so far, by the path that the child will see."""

    def __init__(self) -> None:
        # path -> "private", "home", "read-only" or "writable"
        self._mounts: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._home: str | None = None

    def bind(self, real: str, *, writable: bool) -> None:
        """Show the host's `real`, a path without symlinks that exists there.

        Writing to a device needs no writable mount, but changing the host's mode of it does.
        """
        writable = writable and not stat.S_ISCHR(os.stat(_OLD + real).st_mode)
        above = self._mount_above(real)
        if above == "writable" or (above == "read-only" and not writable):
            return
        source = _OLD + real
        if stat.S_ISDIR(os.stat(source).st_mode):
            self.make_directory(real)
        else:
            self._make_file(real)
        syscalls.mount(source, _NEW + real, "", syscalls.MS_BIND | syscalls.MS_REC)
        if not writable:
            syscalls.make_read_only(_NEW + real)
        self._mounts[real] = "writable" if writable else "read-only"

    def add_private(self, path: str, size: int, files: int) -> None:
        """Put an empty, world-writable tmpfs of `size` bytes at `path`."""
        self.make_directory(path)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        options = f"mode=1777,size={size},nr_inodes={files}"
        syscalls.mount("tmpfs", _NEW + path, "tmpfs", flags, options)
        self._mounts[path] = "private"

    def add_home(self, path: str, kept: str | None, options: str) -> None:
        """Put the cage's home at `path`: the host's `kept`, or an empty one with `options`."""
        self.make_directory(path)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        if kept is None:
            syscalls.mount("tmpfs", _NEW + path, "tmpfs", flags, options)
        else:
            syscalls.mount(_OLD + kept, _NEW + path, "", syscalls.MS_BIND)
        self._mounts[path] = "home"
        self._home = path

    def cover(self, real: str) -> None:
        """Hide what is at `real`; nothing to do where the view does not show it.

        Raises StageError where it has gone since the plan was made: it may come back.
        """
        if self._mount_above(real) == "home":  # the host's is not shown: the cage's own is there
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
        """Show the host's `real` read-only inside what may be written, where it is shown at all."""
        if not os.path.lexists(_NEW + real) or self._mount_above(real) == "home":
            return
        syscalls.mount(_OLD + real, _NEW + real, "", syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.make_read_only(_NEW + real)

    def pin(self, inner: list[str]) -> None:
        """Make every directory that leads from a writable mount to one of `inner` a mount itself.

        A mount point can't be renamed or removed, by whatever name it is reached, and not from a
        mount namespace below this one either, where every mount is locked.
        """
        between = {path for real in inner for path in self._between(real)}
        for path in sorted(between, key=_depth):  # an outer one hides what is mounted in it before
            found = os.lstat(_OLD + path)
            if not stat.S_ISDIR(found.st_mode):  # it was one when it was planned
                raise changed(path)
            syscalls.mount(_OLD + path, _NEW + path, "", syscalls.MS_BIND | syscalls.MS_REC)
            require_same(_NEW + path, path, (found.st_dev, found.st_ino))

    def _between(self, path: str) -> list[str]:
        """Return what lies between `path` and the mount for writing that it is seen in, if any."""
        if self._mount_above(path) != "writable" or not os.path.lexists(_NEW + path):
            return []
        found = []
        while (path := os.path.dirname(path)) not in (*self._mounts, "/"):
            found.append(path)
        return found

    def replace(self, path: str, text: str) -> None:
        """Show a file with `text` at `path`, whatever the host has there.

        In a directory of the host's there has to be something to mount it on (see `own_files`).
        """
        parent = self.follow(os.path.dirname(path)) or os.path.dirname(path)
        real = os.path.join(parent, os.path.basename(path))
        if self._mount_above(real) != "private":  # as the host has it: a symlink leads on
            real = self._follow(path)[0]
        if not os.path.lexists(_NEW + real):
            if self._mount_above(real) != "private":
                return
            self._make_file(real)
        if not stat.S_ISREG(os.lstat(_NEW + real).st_mode):
            return
        ours = _REPLACED + os.path.basename(path)
        _write_file(ours, text, mode=0o644)
        syscalls.mount(ours, _NEW + real, "", syscalls.MS_BIND)
        syscalls.make_read_only(_NEW + real)

    def show_file(self, source: str, path: str, identity: list[int]) -> None:
        """Show a file of ours read-only at `path`, where nothing of the host's is."""
        self._make_file(path)
        syscalls.mount(_OLD + source, _NEW + path, "", syscalls.MS_BIND)
        require_same(_NEW + path, path, (identity[0], identity[1]))
        syscalls.make_read_only(_NEW + path)

    def add_stream(
        self, path: str, source: str, identity: tuple[int, int], *, writable: bool
    ) -> None:
        """Show at `path` the file or terminal of the host at `source` that a stream has open.

        Nothing where it has gone since, or where the host would have to have a file for it.
        """
        try:
            found = os.stat(_OLD + source)
        except OSError:
            return
        if (found.st_dev, found.st_ino) != tuple(identity):
            return
        if not os.path.lexists(_NEW + path):
            if self._mount_above(path) != "private":
                return
            self._make_file(path)
        syscalls.mount(_OLD + source, _NEW + path, "", syscalls.MS_BIND)
        if not writable or stat.S_ISCHR(found.st_mode):  # as in `bind`
            syscalls.make_read_only(_NEW + path)
        require_same(_NEW + path, path, identity)

    def make_directory(self, path: str) -> None:
        """Make `path` and what leads to it, as empty directories where nothing is bound.

        In the cage's home, which an earlier command filled, never through a symlink.
        """
        if self._home is None or not path.startswith(self._home + "/"):
            os.makedirs(_NEW + path, mode=0o755, exist_ok=True)
            return
        with entered(_NEW + self._home) as home:
            os.close(make_directories(home, os.path.relpath(path, self._home).split("/")))

    def _make_file(self, path: str) -> None:
        self.make_directory(os.path.dirname(path))
        if not os.path.lexists(_NEW + path):
            os.close(os.open(_NEW + path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def _mount_above(self, path: str) -> str:
        """Return what kind of mount `path` would be seen in; private: of nothing of the host's."""
        while True:
            mount = self._mounts.get(path)
            if mount is not None or path == "/":
                return mount or "private"
            path = os.path.dirname(path)

    def follow(self, path: str) -> str | None:
        """Return what is behind every symlink of `path`; `make_links` makes each of them again.

        None if it does not exist.
        """
        real, exists = self._follow(path)
        return real if exists else None

    def _follow(self, path: str) -> tuple[str, bool]:
        """As `follow`; of what does not exist the place where it would be."""
        pending = [part for part in reversed(path.split("/")) if part]
        real = ""
        links = 0
        exists = True
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                real = os.path.dirname(real).rstrip("/")
                continue
            here = f"{real}/{part}"
            try:
                is_link = stat.S_ISLNK(os.lstat(_OLD + here).st_mode)
            except OSError:
                exists = is_link = False
            if not is_link:
                real = here
                continue
            links += 1
            if links > _MAX_LINKS:
                return path, False
            target = os.readlink(_OLD + here)
            self._links[here] = target
            if target.startswith("/"):
                real = ""
            pending += reversed(target.split("/"))
        return real or "/", exists

    def make_links(self) -> None:
        """Make the symlinks that were followed, once everything is mounted that may hold them."""
        for path, target in self._links.items():
            self.make_link(path, target)
        self._links.clear()

    def make_link(self, path: str, target: str) -> None:
        """Make a symlink, unless something is there or the directory is the host's."""
        if self._mount_above(path) not in ("private", "home") or os.path.lexists(_NEW + path):
            return
        self.make_directory(os.path.dirname(path))
        os.symlink(target, _NEW + path)


def _mount_system(view: _View) -> None:
    view.make_directory("/proc")
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", _NEW + "/proc", "proc", flags)
    for name in _DEVICES:
        if os.path.exists(f"{_OLD}/dev/{name}"):
            view.bind(f"/dev/{name}", writable=True)
    view.make_directory("/dev/pts")
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
