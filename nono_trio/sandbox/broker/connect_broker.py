"""The connect broker: the supervisor connects for a cage that shares the host's network.

Landlock's rules cover TCP ports, but neither addresses nor sockets with a path. So in landlock
isolation connect and listen wait for this broker. It performs them itself, on its own copies of the
address and the socket: another thread of the child can't change them after the check, because the
child's own call never continues. Allowed are: TCP to the proxy's socket only; unix sockets below a
path granted for writing, or granted by name; listening on loopback at requested ports. For TCP
Landlock's rules are the second line of defence.

Rules: a refusal is answered after `refused` has recorded it; a call of a process that can't be
inspected is refused; code that touches the child's objects runs in a helper thread (helpers.py),
because each of them can block; a call that would block is tried again later.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from nono_trio.core.log.processes import UNKNOWN
from nono_trio.core.net.address import AddressClass, classify, parse_address
from nono_trio.core.net.sockaddr import (
    MAX_SOCKET_ADDRESS,
    BadSocketAddress,
    InternetAddress,
    UnixPath,
    parse_socket_address,
)
from nono_trio.errors import AuditLost, SessionSealed
from nono_trio.posix.paths import is_in, still_at
from nono_trio.sandbox.broker import metadata_broker, process_broker, seccomp_notify
from nono_trio.sandbox.broker.caller import Caller
from nono_trio.sandbox.broker.helpers import Helpers, TryLater
from nono_trio.sandbox.launcher.linux.call_numbers import call_name

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from nono_trio.core.log.processes import Found
    from nono_trio.core.net.address import Address
    from nono_trio.sandbox.broker.metadata_broker import MetadataBroker
    from nono_trio.sandbox.broker.seccomp_notify import Notification, Returned

logger = logging.getLogger(__name__)

_LOOPBACK: Final = frozenset({IPv4Address("127.0.0.1"), IPv6Address("::ffff:127.0.0.1")})


class Openings(msgspec.Struct, frozen=True):
    """The addresses that a cage may connect to and listen at.

    A path is a directory with sockets, or one socket."""

    port: int
    listen_ports: frozenset[int]
    paths: tuple[str, ...]

    @classmethod
    def of(
        cls,
        port: int,
        listen_ports: Sequence[int],
        grants: Sequence[tuple[str, str, bool]],
        sockets: Sequence[str] = (),
        identities: Mapping[str, tuple[int, int]] = MappingProxyType({}),
    ) -> Openings:
        """Return the openings of a cage plan; without grants there is no file sandbox.

        `sockets` are granted by name. A path is left out if its file is not the one of
        `identities` any more.
        """
        opened = [path for path, access, is_file in grants if is_file or access != "read"]
        found = [still_at(path, identities.get(path)) for path in (*opened, *sockets)]
        paths = tuple(path for path in found if path is not None) if grants else ("/",)
        return cls(port, frozenset(listen_ports), paths)

    def leads_to_proxy(self, target: InternetAddress) -> bool:
        """Tell whether this is the proxy's own socket: same port and loopback address."""
        return target.port == self.port and target.address in _LOOPBACK

    def has_path(self, path: str) -> bool:
        """Tell whether the cage may connect to a socket at `path`, which has no symlinks."""
        return any(is_in(path, opened) for opened in self.paths)


class ConnectBroker:
    """Answers the calls that wait at the notification descriptor `listener`.

    `refused` records each refused TCP address and port before the call returns to the child; the
    address is None if it can't be read. `metadata` makes changes to files. `launcher` is the
    process whose child is the cage's init. `connected` gets the source port of each connection to
    the proxy, in a thread.
    """

    def __init__(
        self,
        listener: int,
        openings: Openings,
        refused: Callable[[Address | None, int, Found | None], Awaitable[None]],
        metadata: MetadataBroker,
        launcher: int,
        connected: Callable[[int, Found | None], None] = lambda _port, _found: None,
        look_at: Callable[[int], Found] | None = None,
    ) -> None:
        self._listener = listener
        self._connected = connected
        self._metadata = metadata
        self._launcher = launcher
        self._openings = openings
        self._refused = refused
        self._look_at = look_at

    async def serve(self) -> None:
        """Answer until cancelled or until the last process of the cage has ended.

        Afterwards, with `listener` closed, every call fails with ENOSYS. Raises what `refused`
        raises.
        """
        await Helpers(self._listener, self.answer, _is_quick).serve()

    def answer(self, notified: Notification) -> int | Returned | None:
        """Perform the call; return its errno (0 for success) or its value.

        None lets the kernel perform it. Runs in a helper thread. Raises TryLater and the errors of
        `refused`.
        """
        call = call_name(notified.call) or ""
        try:
            if call in process_broker.ARGUMENTS:
                return None if self._is_of_cage(notified, call) else errno.EPERM
            if call in metadata_broker.CALLS:
                return self._change(notified, call)
            if call == "listen":
                return self._listen(notified)
            return self._connect(notified)
        except BadSocketAddress:
            return errno.EINVAL
        except (PermissionError, FileNotFoundError, ProcessLookupError):
            # The memory of a non-dumpable process can't be read (its file is executable but not
            # readable, or it called prctl). Its address can't be checked, so it is refused. Under
            # hidepid the process is not visible at all.
            self._refuse(notified, None, 0)
            return errno.EACCES
        except OSError as error:
            return error.errno or errno.EACCES
        except (TryLater, AuditLost, SessionSealed):
            raise
        except Exception as error:  # one bad call must not end the session
            logger.error("a connection was refused by a bug: %s", type(error).__name__)  # noqa: TRY400
            logger.debug("its cause", exc_info=True)
            return errno.EACCES

    def _change(self, notified: Notification, call: str) -> int | Returned:
        try:
            return self._metadata.do(self._listener, notified, call)
        except OSError as error:
            return error.errno or errno.EACCES

    def _is_of_cage(self, notified: Notification, call: str) -> bool:
        """Tell whether the call names a process of the cage."""
        return process_broker.names_own_thread(notified, call) or process_broker.names_descendant(
            notified, call, self._launcher
        )

    def _refuse(self, notified: Notification, address: Address | None, port: int) -> None:
        """Record a refusal on the event loop; returns when it is in the log."""
        if seccomp_notify.is_waiting(self._listener, notified):
            trio.from_thread.run(self._refused, address, port, self._caller_of(notified))

    def _caller_of(self, notified: Notification) -> Found | None:
        """The program whose call waits; None if programs are not recorded."""
        if self._look_at is None:
            return None
        found = self._look_at(notified.thread)
        # Only a thread that still waits is the one that called.
        return found if seccomp_notify.is_waiting(self._listener, notified) else UNKNOWN

    def _listen(self, notified: Notification) -> int:
        caller = Caller.of(notified.thread, elsewhere=False)
        with self._its_socket(notified) as sock:
            if not self.may_listen(sock):
                return errno.EACCES
            with caller.being():  # clients see the credentials of the listener
                sock.listen(seccomp_notify.as_int(notified.arguments[1]))
        return 0

    def may_listen(self, sock: socket.socket) -> bool:
        """Tell whether the child may listen on `sock`: loopback and requested ports only.

        A client from another machine would be a way out. Abstract unix names are refused: other
        programs of this machine may take the child for a server that they know.
        """
        if sock.family == socket.AF_UNIX:
            name = (
                sock.getsockname()
            )  # a name never changes, but a socket without one may still get one
            return isinstance(name, str) and name != ""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        text, port = sock.getsockname()[:2]
        address = parse_address(text)
        if address is None or classify(address) is not AddressClass.LOOPBACK:
            return False
        return port in self._openings.listen_ports

    def _connect(self, notified: Notification) -> int:
        _, at, length, *_ = notified.arguments
        length &= 0xFFFFFFFF
        if length > MAX_SOCKET_ADDRESS:
            return errno.EINVAL
        data = seccomp_notify.read_memory(notified.thread, at, length)
        target = parse_socket_address(data, sys.byteorder)
        if isinstance(target, InternetAddress):
            return self._connect_internet(notified, target)
        if isinstance(target, UnixPath):
            return self._connect_unix(notified, target.path)
        # An abstract name (Landlock's scope would refuse it too), or a family without sockets here.
        return errno.EPERM

    def _connect_internet(self, notified: Notification, target: InternetAddress) -> int:
        if not self._openings.leads_to_proxy(target):
            self._refuse(notified, target.address, target.port)
            return errno.EACCES
        with self._its_socket(notified) as sock:
            if sock.family != _family(target.address):
                return errno.EAFNOSUPPORT
            address = (str(target.address), target.port)
            with _not_blocking(sock) as blocked:
                number = sock.connect_ex(address)
                # Before the child can send on it.
                self._connected(sock.getsockname()[1], self._caller_of(notified))
                if number == errno.EINPROGRESS and blocked:
                    number = sock.connect_ex(
                        address
                    )  # already connected, unless the backlog is full
                if number == errno.EALREADY and blocked:
                    raise TryLater(notified.identity)
                return number

    def _connect_unix(self, notified: Notification, path: bytes) -> int:
        """Connect with the caller's rights: to search the path and to write the socket.

        The server sees the caller's credentials.
        """
        caller = Caller.of(notified.thread, elsewhere=False)
        with self._its_socket(notified) as sock:
            if sock.family != socket.AF_UNIX:
                return errno.EAFNOSUPPORT
            directory = caller.working_directory()
            try:
                with _not_blocking(sock) as blocked, caller.being():
                    number, listener = self._try_unix(sock, directory, caller.in_our_proc(path))
                    if number == errno.EAGAIN and blocked:
                        raise TryLater(listener)
                    return number
            finally:
                os.close(directory)

    def _try_unix(
        self, sock: socket.socket, directory: int, path: bytes
    ) -> tuple[int, tuple[int, int] | None]:
        """Open `path` once (O_PATH), check what it is, then connect through that descriptor.

        Returns the errno, and device and inode of the socket.
        """
        try:
            held = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            return self._why_not(error, path, directory), None
        try:
            by_hold = f"/proc/self/fd/{held}"
            if not self._openings.has_path(os.readlink(by_hold)):
                return errno.EACCES, None
            found = os.stat(by_hold)
            if not stat.S_ISSOCK(found.st_mode):
                return errno.ECONNREFUSED, None
            return sock.connect_ex(by_hold), (found.st_dev, found.st_ino)
        finally:
            os.close(held)

    def _why_not(self, error: OSError, path: bytes, directory: int) -> int:
        """Return the errno for a missing path: the real one in a directory that the cage may use.

        A program that finds no server in its own directory starts one. Elsewhere EACCES.
        """
        try:
            parent = os.open(
                os.path.dirname(path) or b".", os.O_PATH | os.O_CLOEXEC, dir_fd=directory
            )
        except OSError:
            return errno.EACCES
        try:
            is_open = self._openings.has_path(os.readlink(f"/proc/self/fd/{parent}"))
        finally:
            os.close(parent)
        return error.errno or errno.EACCES if is_open else errno.EACCES

    @contextmanager
    def _its_socket(self, notified: Notification) -> Iterator[socket.socket]:
        """Copy the caller's socket into this process for the body. Raises OSError."""
        descriptor = seccomp_notify.copy_descriptor(
            notified.thread, seccomp_notify.as_int(notified.arguments[0])
        )
        with _as_socket(descriptor) as sock:
            if not seccomp_notify.is_waiting(
                self._listener, notified
            ):  # the thread id may have been reused
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            yield sock


def _is_quick(notified: Notification) -> bool:
    """Tell whether the call changes a file: unpacking an archive makes thousands of these."""
    return call_name(notified.call) in metadata_broker.CALLS


def _as_socket(descriptor: int) -> socket.socket:
    """Take over `descriptor` as a socket object; raises ENOTSOCK for another file."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise


@contextmanager
def _not_blocking(sock: socket.socket) -> Iterator[bool]:
    """Make the child's socket non-blocking for the body; yields whether it was blocking.

    Both processes share the flag. The calling thread waits, but another thread of the child may
    reset the flag; then the call blocks, and with it one helper.
    """
    blocked = os.get_blocking(sock.fileno())
    os.set_blocking(sock.fileno(), False)
    try:
        yield blocked
    finally:
        with suppress(OSError):
            os.set_blocking(sock.fileno(), blocked)


def _family(address: Address) -> int:
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
