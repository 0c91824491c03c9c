"""Ways to outlive the session: who is left afterwards is seen on the other side, by its tag."""

import errno
import os
import signal
from functools import partial

from escape_base import Stopped, attempt, checked, libc, syscall
from escape_mounts import NEWPID, NEWUSER, become_root_of_new

FORKING = "outliving the session by forking faster than it is killed"


def sleep_on(host):
    """Wait, deaf to requests to end, with the tag as the name by which it can be found."""
    be_called(host)
    os.closerange(0, 64)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        signal.pause()


def be_called(host):
    """The kernel keeps 15 bytes of a name; a tag has 12."""
    libc.prctl(15, host.tag.encode(), 0, 0, 0)


def setsid(host):
    os.setsid()


def double_fork(host):
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)


def own_subreaper(host):
    checked(libc.prctl(36, 1, 0, 0, 0), "prctl")
    double_fork(host)


def own_group(host):
    os.setpgid(0, 0)


def new_pid_namespace(host):
    """Children of a new PID namespace die with its first process; try to outlive the cage there."""
    try:
        become_root_of_new(NEWUSER | NEWPID)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOSYS):
            raise
    if os.fork():
        os._exit(0)
    os.setsid()


def outlive(host, way):
    if os.fork() == 0:
        way(host)
        sleep_on(host)
    raise Stopped("started; who is left is seen there")


def sibling(host, way=None):
    """clone(CLONE_PARENT): the new process is no descendant of ours, but of our parent."""
    if syscall("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        sleep_on(host)
    raise Stopped("started; who is left is seen there")


for _name, _way in {
    "setsid": setsid, "a double fork": double_fork, "a subreaper of its own": own_subreaper,
    "a group of its own": own_group, "a PID namespace of its own": new_pid_namespace,
}.items():  # fmt: skip
    attempt(f"outliving the session by {_name}")(partial(outlive, way=_way))
attempt("outliving the session as a sibling (CLONE_PARENT)")(sibling)


@attempt("outliving the session as a crowd of 200")
def crowd(host):
    for _ in range(200):
        if os.fork() == 0:
            os.setsid()
            sleep_on(host)
    raise Stopped("started; who is left is seen there")


@attempt(FORKING)
def fork_on(host):
    """A few lines of processes that each fork and end, for as long as anyone lets them."""
    for _ in range(4):
        if os.fork() == 0:
            os.setsid()
            hop(host)
    raise Stopped("started; who is left is seen there")


def hop(host):
    """Bounded, lest a cage that does not end them becomes a machine that has to be restarted."""
    be_called(host)
    for _ in range(20_000):
        if os.fork():
            os._exit(0)
    os._exit(0)
