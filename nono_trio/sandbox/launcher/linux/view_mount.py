"""The launcher's side of the answering view: start the server, mount FUSE below the grants.

Order: fork the server; enter the namespaces; open /dev/fuse and make the file system; build the
plain view; in PID 1 send the server the tree of the plain view, and bind each mount of the plain
view to its path above FUSE. Root makes the file system before it enters the namespaces: the
supervisor's broker may only resolve paths in a FUSE file system of its own user namespace. An
ordinary user needs the new user namespace to mount at all.

Rules: if a machine refuses a step, the plain view remains, and it is complete. Only the server
keeps the descriptor of /dev/fuse: the kernel ends waiting requests when the last one is closed.
"""

import contextlib
import os
import signal
import socket
from typing import Final, NamedTuple, cast

from .. import protocol
from . import syscalls, view_reports, view_server
from .view_tree import is_below, mounts_below, places_of, with_directories

DEVICE: Final = "/dev/fuse"
# It sends what it has kept for the supervisor, for LAST_SECONDS at most.
_SERVER_SECONDS: Final = view_reports.LAST_SECONDS + 1.0
_HOLD: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class HomeLayers(NamedTuple):
    """The home at `path`: `directory` has the two names `upper`, whose content the plain view shows
    there, and `work`, an empty directory of the same mount."""

    path: str
    directory: str
    upper: str
    work: str
    lower: str  # a directory to mount on
    is_kept: bool = False  # on disk, and filled by earlier sessions

    def open_upper(self, flags: int) -> int:
        """Open the directory of the home's own files."""
        return os.open(f"{self.directory}/{self.upper}", flags)

    def hold_lower(self, root: str) -> None:
        """Have FUSE's directory of the home at `lower`, before a mount covers it below `root`."""
        syscalls.mount(root + self.path, self.lower, "", syscalls.MS_BIND)

    def mount_over(self, root: str) -> bool:
        """Mount the overlay at the home's path below `root`; return False if the kernel refuses.

        One device number for all files (xino): programs compare them to find mounts. Without an
        index an overlay of the last session, which the kernel may still write to disk, is no
        obstacle.
        """
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        options = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        options += ",userxattr,xino=on,index=off"
        os.chdir(self.directory)  # a comma in its path would end the option
        try:
            if os.statvfs(self.upper).f_flag & os.ST_NOEXEC:
                flags |= syscalls.MS_NOEXEC
            syscalls.mount("overlay", root + self.path, "overlay", flags, options)
        except OSError:
            return False
        finally:
            os.chdir("/")
        return True


def _show_mount(plain: str, target: str, path: str) -> None:
    flags = syscalls.MS_BIND | syscalls.MS_REC
    syscalls.mount(plain + path, target + path, "", flags)


class AnsweringView:
    """The server's process and the descriptors that this process shares with it.

    `why_not`: the reason for the user if the machine has no such view; then only `why_not` counts.
    """

    def __init__(self, control: socket.socket, watched: list[str]) -> None:
        """Start the server, before the namespaces are entered; it closes `control`. `watched`:
        directories that the view shows, empty, to learn what is looked up in them."""
        self._watched = watched
        self.why_not: str | None = None
        self.handle: int | None = None  # of the server's process
        self._pid = 0
        self._mount: int | None = None
        self.home_seen = False  # the view answers for the home too
        self.home: int | None = None  # then, the directory of a private home's files
        try:
            os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
            self.told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._pid, self._channel = view_server.start(theirs, [control, self.told])
            self.handle = os.pidfd_open(self._pid)
        except OSError as error:
            self.refuse(error)

    def refuse(self, error: OSError) -> None:
        """Use the plain view, because of `error`."""
        self.why_not = f"{DEVICE}: {error.strerror or error}"
        if self._pid:
            self.told.close()
            self.end()

    def mount(self, *, outside: bool) -> None:
        """Make the file system; `outside`: this process is root and has no namespace yet."""
        if self.why_not is not None:
            return
        try:
            device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            try:
                options: dict[str, str | None] = {
                    "source": "nono-trio",
                    "fd": str(device),
                    "rootmode": "40000",
                    "user_id": str(os.geteuid()),
                    "group_id": str(os.getegid()),
                }
                if outside:  # a child of root's may become another user
                    options["allow_other"] = None
                self._mount = syscalls.make_mount("fuse", options)
                protocol.send(self._channel, {"fuse": True}, [device])
            finally:
                os.close(device)
        except OSError as error:
            self.refuse(error)

    def show(self, plain: str, target: str, home: HomeLayers | None) -> bool:
        """In PID 1: make `target` an answering root with every mount of the root `plain`.

        `home`: the cage's own home, which becomes an overlay if the kernel allows it. Returns False
        if the kernel refuses the root: then `plain` is unchanged.
        """
        if self._mount is None:
            return False
        try:
            try:
                self._show_with_home(plain, target, home)
            finally:
                self.leave()
        except OSError as error:
            self.why_not = str(error)
            with contextlib.suppress(OSError):
                syscalls.unmount(target)
            return False
        return True

    def _show_with_home(self, plain: str, target: str, home: HomeLayers | None) -> None:
        inside = None
        if home is not None and home.is_kept:
            inside = mounts_below(plain + home.path, f"{plain}/proc/self/mountinfo")
        plain_places = places_of(plain, None if home is None else home.path, inside)
        places = with_directories(plain_places, self._watched, None if home is None else home.path)
        added = [place.path for place in places[len(plain_places) :]]
        listed = [directory for directory in self._watched if directory in added]
        held = [] if home is None else [home.open_upper(_HOLD)]
        tree = [list(place) for place in places]
        message: dict[str, object] = {
            "tree": tree,
            "home": None if home is None else home.path,
            "listed": listed,
            "watched": self._watched,
        }
        protocol.send(self._channel, message, held)
        for descriptor in held:
            os.close(descriptor)
        os.mkdir(target)
        syscalls.attach_mount(cast("int", self._mount), target)
        if home is not None:
            home.hold_lower(target)
        mounts = [place.path for place in places if place.is_mount]
        of_home = [path for path in mounts if home is not None and is_below(path, home.path)]
        for path in mounts:
            if path not in of_home:
                _show_mount(plain, target, path)
        if home is not None:  # after /tmp, in which it may lie
            self._show_home(plain, target, home, of_home)

    def _show_home(self, plain: str, target: str, home: HomeLayers, mounts: list[str]) -> None:
        self.home_seen = home.mount_over(target)
        if not self.home_seen:  # the plain one, with the mounts inside it
            _show_mount(plain, target, home.path)
            return
        if home.is_kept:
            self._leave_last_write(target + home.path)
        else:
            self.home = home.open_upper(os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for path in mounts:
            _show_mount(plain, target, path)

    def _leave_last_write(self, overlay: str) -> None:
        """Have the server hold the overlay until it ends.

        Whoever gives it up last waits until the disk below it has written everything, also what
        other programs wrote. Nobody waits for the server's end.
        """
        descriptor = os.open(overlay, _HOLD)
        protocol.send(self._channel, {"hold": True}, [descriptor])
        os.close(descriptor)

    def leave(self) -> None:
        """In PID 1: close the descriptors, except the one for the supervisor."""
        if self._mount is not None:
            os.close(self._mount)
            self._mount = None
        if self._pid:
            self._channel.close()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None

    def release(self) -> None:
        """In the launcher's first process: keep only what ends the server."""
        if self._mount is not None:
            os.close(self._mount)
            self._mount = None
        if self.why_not is None:
            self.told.close()

    def end(self) -> None:
        """In the launcher's first process: have the server end, and wait until it is done.

        It is not waited for: its end may take as long as a disk writes (`_leave_last_write`).
        """
        if not self._pid:
            return
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_WR)
            self._channel.settimeout(_SERVER_SECONDS)
            self._channel.recv(1)  # its end
        self._channel.close()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)  # our own child, which is not reaped yet
            os.waitpid(self._pid, os.WNOHANG)
        self._pid = 0
