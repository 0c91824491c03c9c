"""Connections of a cage without a network of its own, each made by the supervisor in its stead.

Landlock knows TCP ports but no addresses, and no sockets that have a path. So in landlock isolation
connect and listen wait for this guard, which does them itself, on its own copies of the address and
of the socket: nothing that another thread of the child changes meanwhile has any effect, as the
child's own call is never let go on. What it does: TCP to the proxy's socket and nowhere else;
unix sockets below a path that was granted for writing, or granted by name; listening at ports that
were asked for, on loopback. Landlock's rules stand behind it for TCP.

Rules: no answer before `refused` has returned, which puts a refusal into the log; a call that can't
be looked into is refused; everything here that touches what the child has runs in a helper
(`helpers`), as all of it can be made to block; a call that would block is tried again later.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import trio

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

    from nono_trio.core.net.address import Address
    from nono_trio.sandbox.broker.metadata_broker import MetadataBroker
    from nono_trio.sandbox.broker.seccomp_notify import Notification, Returned

logger = logging.getLogger(__name__)

_LOOPBACK: Final = frozenset({IPv4Address("127.0.0.1"), IPv6Address("::ffff:127.0.0.1")})


@dataclass(frozen=True)
class Openings:
    """What a cage may connect to and listen at; a path is a directory, or a socket by name."""

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
        """The openings of a cage plan; no grants stand for no file sandbox. `sockets` are granted
        as such; what is not what it was when the plan was made (`identities`) is not opened."""
        opened = [path for path, access, is_file in grants if is_file or access != "read"]
        found = [still_at(path, identities.get(path)) for path in (*opened, *sockets)]
        paths = tuple(path for path in found if path is not None) if grants else ("/",)
        return cls(port, frozenset(listen_ports), paths)

    def leads_to_proxy(self, target: InternetAddress) -> bool:
        """Whether this is the proxy's own socket: the port of another address is not."""
        return target.port == self.port and target.address in _LOOPBACK

    def has_path(self, path: str) -> bool:
        """Whether a socket at `path`, which is resolved, is open to the cage."""
        return any(is_in(path, opened) for opened in self.paths)


class ConnectBroker:
    """Answers the calls that wait at `listener`.

    `refused` is called with each address and port that the child tried to reach by TCP, before the
    call returns to it; with None where the address can't be known. `metadata` makes
    changes to files; `launcher` is the process whose child is the cage's init. `connected`
    gets the source port of each connection to the proxy, in a thread.
    """

    def __init__(
        self,
        listener: int,
        openings: Openings,
        refused: Callable[[Address | None, int], Awaitable[None]],
        metadata: MetadataBroker,
        launcher: int,
        connected: Callable[[int], None] = lambda _port: None,
    ) -> None:
        self._listener = listener
        self._connected = connected
        self._metadata = metadata
        self._launcher = launcher
        self._openings = openings
        self._refused = refused

    async def serve(self) -> None:
        """Answer until cancelled or until nobody is left to ask. Raises what `refused` raises.

        Once it has returned and `listener` is closed, every call fails with ENOSYS.
        """
        await Helpers(self._listener, self.answer, _is_quick).serve()

    def answer(self, notified: Notification) -> int | Returned | None:
        """Do what the call asks for, in a helper; return its errno, 0 for success, or what it
        returns, None to let the kernel do it.

        Raises TryLater, and what `refused` raises.
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
            # A program that nobody may look into (it can be executed but not read, or asks for it)
            # can't be told from one that would change the address after the check. Under hidepid
            # it is not even there.
            self._refuse(notified, None, 0)
            return errno.EACCES
        except OSError as error:
            return error.errno or errno.EACCES
        except (TryLater, AuditLost, SessionSealed):
            raise
        except Exception as error:  # one bad call must not end the session of all the others
            logger.error("a connection was refused by a bug: %s", type(error).__name__)  # noqa: TRY400
            logger.debug("its cause", exc_info=True)
            return errno.EACCES

    def _change(self, notified: Notification, call: str) -> int | Returned:
        try:
            return self._metadata.do(self._listener, notified, call)
        except OSError as error:
            return error.errno or errno.EACCES

    def _is_of_cage(self, notified: Notification, call: str) -> bool:
        """Whether the process that the call is about is one of the cage's."""
        return process_broker.names_own_thread(notified, call) or process_broker.names_descendant(
            notified, call, self._launcher
        )

    def _refuse(self, notified: Notification, address: Address | None, port: int) -> None:
        """Have a refusal recorded, which is the loop's to do; back when it is in the log."""
        if seccomp_notify.is_waiting(self._listener, notified):
            trio.from_thread.run(self._refused, address, port)

    def _listen(self, notified: Notification) -> int:
        caller = Caller.of(notified.thread, elsewhere=False)
        with self._its_socket(notified) as sock:
            if not self.may_listen(sock):
                return errno.EACCES
            with caller.being():  # who listens is told to those who connect
                sock.listen(_signed(notified.arguments[1]))
        return 0

    def may_listen(self, sock: socket.socket) -> bool:
        """Only where this machine alone can call it: whoever calls from elsewhere is a way out. And
        at no abstract name, which other programs of this machine may take for somebody's they know.
        """
        if sock.family == socket.AF_UNIX:
            name = sock.getsockname()  # once there is one it stays the same; until then it may come
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
        # An abstract name (what Landlock's scope would say), or a family that has no sockets here.
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
                self._connected(sock.getsockname()[1])  # before the child can send anything by it
                if number == errno.EINPROGRESS and blocked:
                    number = sock.connect_ex(address)  # done already, but for a full backlog
                if number == errno.EALREADY and blocked:
                    raise TryLater(notified.identity)
                return number

    def _connect_unix(self, notified: Notification, path: bytes) -> int:
        """As the caller: the path is its own to search and the socket its own to write, and the
        server is told which user connects."""
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
        """Connect to what `path` is now, if that is open to the cage: the socket is held first,
        and then judged and connected to by that hold. Returns the errno, and which file it is."""
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
        """The errno for a path that is not there: the real one where the cage may see that, as a
        program that finds no server in its own directory starts one."""
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
        """Our copy of the socket that the call is about. Raises OSError."""
        descriptor = seccomp_notify.copy_descriptor(notified.thread, _signed(notified.arguments[0]))
        with _as_socket(descriptor) as sock:
            if not seccomp_notify.is_waiting(
                self._listener, notified
            ):  # it may be another's by now
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            yield sock


def _is_quick(notified: Notification) -> bool:
    """Whether the call is about files, of which an archive has thousands."""
    return call_name(notified.call) in metadata_broker.CALLS


def _as_socket(descriptor: int) -> socket.socket:
    """The socket that is open as `descriptor`, which it takes over; ENOTSOCK for anything else."""
    try:
        return socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise


@contextmanager
def _not_blocking(sock: socket.socket) -> Iterator[bool]:
    """Keep a call on the child's socket from blocking us; tells whether it would have blocked.

    The flag is one of the socket that both have: the child's thread waits for its call meanwhile,
    but another may take the flag back. Then the call does block, and with it a helper.
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


def _signed(argument: int) -> int:
    """An int of C, of which the kernel looks at the low 32 bits."""
    low = argument & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
