"""Ways out by other processes: their memory, their descriptors, their signals."""

import ctypes
import fcntl
import os
import signal
import socket
import struct
from functools import partial

from escape_base import (
    Stopped,
    attempt,
    read,
    secret_in,
    syscall,
    wait_for,
)

HARMLESS = signal.SIGURG  # ignored by default; the victim notes it


def cage_init(host):
    """Return the parent of the program: PID 1 of the cage, or the launcher."""
    with open(f"/proc/{host.me}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    return parent or 1


WHO = {
    "the supervisor": lambda host: host.supervisor,
    "the cage's init": cage_init,
    "a host process": lambda host: host.victim["pid"],
    "the host's init": lambda host: 1,
}


# --- what /proc shows ---


def proc_entry(host, whose, entry):
    pid = whose(host)
    if pid == 1 and host.isolation == "namespace" and whose is WHO["the host's init"]:
        raise Stopped("PID 1 here is the cage's own init")
    path = f"/proc/{pid}/{entry}"
    if entry == "mem":
        return proc_memory(host, pid)
    if entry == "fd":
        return os.readlink(f"{path}/{os.listdir(path)[0]}")
    if entry in ("root", "cwd"):
        return f"{len(os.listdir(path + '/'))} entries below it"
    with open(path, "rb", buffering=0) as file:
        return f"{len(file.read(4096))} bytes"


def proc_memory(host, pid):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(host.victim["address"])
        return secret_in(memory.read(64), host)


for _who, _whose in WHO.items():
    for _entry in ("environ", "mem", "fd", "root", "cwd", "maps"):
        attempt(f"/proc: {_entry} of {_who}")(partial(proc_entry, whose=_whose, entry=_entry))


@attempt("/proc: a foreign file by a host process' descriptor")
def foreign_descriptor(host):
    return read(f"/proc/{host.victim['pid']}/fd/{host.victim['descriptor']}", host)


@attempt("/proc: the supervisor's open log by its descriptor")
def supervisors_log(host):
    directory = f"/proc/{host.supervisor}/fd"
    for name in os.listdir(directory):
        if os.readlink(f"{directory}/{name}").endswith("audit-events.ndjson"):
            with open(f"{directory}/{name}", "ab"):
                return "opened the log for writing"
    raise Stopped("not among its descriptors")


@attempt("/proc: the command lines of host processes")
def command_lines(host):
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if host.secret.encode() in file.read():
                        return f"{name} has the secret in its command line"
            except OSError:
                continue
    raise Stopped("only its own processes")


@attempt("/proc: the host's connections")
def connections(host):
    with open("/proc/net/tcp") as file:
        if f":{host.tcp:04X} " in file.read():
            return "the host's listener is in the list"
    raise Stopped("only its own sockets")


@attempt("/proc: the host's mounts by a host process")
def foreign_mounts(host):
    with open(f"/proc/{host.victim['pid']}/mountinfo", "rb") as file:
        return f"{len(file.read())} bytes"


@attempt("/proc: making the supervisor the first to be killed (oom_score_adj)")
def out_of_memory_victim(host):
    with open(f"/proc/{host.supervisor}/oom_score_adj", "w") as file:
        file.write("0")  # as it is
    return "written"


# --- tracing, memory, descriptors ---


def seize(host, whose):
    syscall("ptrace", 0x4206, whose(host), 0, 0)  # PTRACE_SEIZE: does not stop it
    return "traces it"


def attach(host, whose):
    pid = whose(host)
    syscall("ptrace", 16, pid, 0, 0)
    os.waitpid(pid, 0)
    syscall("ptrace", 17, pid, 0, 0)
    return "attached to it"


def read_memory(host, whose):
    buffer = ctypes.create_string_buffer(64)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 64)
    remote = (ctypes.c_uint64 * 2)(host.victim["address"], 64)
    syscall("process_vm_readv", whose(host), local, 1, remote, 1, 0)
    return secret_in(buffer.raw, host)


def write_memory(host, whose):
    buffer = ctypes.create_string_buffer(b"tag-", 4)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 4)
    remote = (ctypes.c_uint64 * 2)(host.victim["scratch"], 4)
    return f"wrote {syscall('process_vm_writev', whose(host), local, 1, remote, 1, 0)} bytes"


def take_descriptor(host, whose):
    """Any that it has: sockets of the log's keeper are as good as files."""
    pidfd = syscall("pidfd_open", whose(host), 0)
    last = None
    for number in [host.victim["descriptor"], *range(12)]:
        try:
            return f"has its descriptor {number} as {syscall('pidfd_getfd', pidfd, number, 0)}"
        except OSError as error:
            last = error
    raise last


def compare(host, whose):
    syscall("kcmp", os.getpid(), whose(host), 1, 0, 0)
    return "compared address spaces"


def counters(host, whose):
    attributes = struct.pack("=IIQQQQQ", 1, 112, 0, 0, 0, 0, 0x60) + bytes(64)
    return f"counter {syscall('perf_event_open', attributes, whose(host), -1, -1, 0)}"


def limit(host, whose):
    current = (ctypes.c_uint64 * 2)()
    syscall("prlimit64", whose(host), 7, None, current)
    syscall("prlimit64", whose(host), 7, current, None)  # to what it is
    return "set its limits"


def renice(host, whose):
    current = os.getpriority(os.PRIO_PROCESS, whose(host))
    os.setpriority(os.PRIO_PROCESS, whose(host), current)
    return "set its priority"


for _who in ("the supervisor", "the cage's init", "a host process"):
    for _name, _action in {
        "tracing": seize, "attaching to": attach, "the descriptors of": take_descriptor,
        "comparing with": compare, "counters on": counters, "the limits of": limit,
        "the priority of": renice,
    }.items():  # fmt: skip
        attempt(f"{_name} {_who}")(partial(_action, whose=WHO[_who]))
attempt("reading the memory of a host process")(partial(read_memory, whose=WHO["a host process"]))
attempt("writing the memory of a host process")(partial(write_memory, whose=WHO["a host process"]))


# --- signals ---


def signal_to(host, whose):
    os.kill(whose(host), HARMLESS)
    return "signalled"


def signal_by_pidfd(host, whose):
    pidfd = syscall("pidfd_open", whose(host), 0)
    syscall("pidfd_send_signal", pidfd, int(HARMLESS), None, 0)
    return "signalled"


def signal_thread(host, whose):
    syscall("tgkill", whose(host), whose(host), int(HARMLESS))
    return "signalled"


def signal_queued(host, whose):
    information = struct.pack("=iii", int(HARMLESS), 0, -1) + bytes(116)  # SI_QUEUE
    syscall("rt_sigqueueinfo", whose(host), int(HARMLESS), information)
    return "signalled"


def signal_by_owner(host, whose):
    """The kernel signals the owner of a socket: here when it becomes readable."""
    mine, other = socket.socketpair()
    fcntl.fcntl(mine, fcntl.F_SETOWN, whose(host))
    fcntl.fcntl(mine, 10, int(HARMLESS))  # F_SETSIG
    fcntl.fcntl(mine, fcntl.F_SETFL, fcntl.fcntl(mine, fcntl.F_GETFL) | os.O_ASYNC)
    other.send(b"x")
    raise Stopped("asked; whether it arrived is seen there")


for _who in ("the supervisor", "a host process"):
    for _name, _action in {
        "kill": signal_to, "pidfd_send_signal": signal_by_pidfd, "tgkill": signal_thread,
        "rt_sigqueueinfo": signal_queued, "F_SETOWN": signal_by_owner,
    }.items():  # fmt: skip
        attempt(f"a signal to {_who} by {_name}")(partial(_action, whose=WHO[_who]))


@attempt("a signal to the host's init")
def signal_host_init(host):
    if host.isolation == "namespace":
        raise Stopped("PID 1 here is the cage's own init")
    os.kill(1, 0)
    return "it may"


@attempt("a signal to everything (kill -1)")
def signal_everything(host):
    os.kill(-1, HARMLESS)
    raise Stopped("sent; the victim would have noted it")


@attempt("a signal to the supervisor's group")
def signal_group(host):
    os.killpg(host.supervisor, HARMLESS)
    return "signalled"


def harm_init(host, number):
    pid = cage_init(host)
    os.kill(pid, number)

    def stopped():
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "TZX"

    if wait_for(stopped, 0.1):
        return "it stopped"
    raise Stopped("it goes on")


attempt("stopping the cage's init (SIGSTOP)")(partial(harm_init, number=signal.SIGSTOP))
attempt("killing the cage's init (SIGKILL)")(partial(harm_init, number=signal.SIGKILL))
