"""Ways out by the kernel's own doors: mounts, namespaces, privileges, rarely used system calls."""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import stat
import struct
import time
from functools import partial

from escape_base import Stopped, attempt, checked, libc, reach, read, syscall
from escape_mounts import NEWNET, NEWNS, NEWPID, NEWUSER, become_root_of_new


@attempt("the old way out of a chroot, in new namespaces")
def chroot_escape(host):
    become_root_of_new(NEWUSER)
    outer = os.open("/", os.O_RDONLY)
    os.chroot(host.project)
    os.fchdir(outer)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return read(host.outside + "/secret", host)


@attempt("the host's network from a new network namespace")
def new_network(host):
    become_root_of_new(NEWUSER | NEWNET)
    return reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", host.tcp), host)


@attempt("a raw socket on the outer network, as root of a new user namespace")
def raw_in_new_user(host):
    become_root_of_new(NEWUSER)
    socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()
    return "has a raw socket"


@attempt("a foreign process from a new PID namespace")
def new_pids(host):
    become_root_of_new(NEWUSER | NEWPID)
    os.kill(host.victim["pid"], 0)
    return "the victim can be signalled"


@attempt("the host's name (sethostname)")
def hostname(host):
    name = socket.gethostname().encode()
    syscall("sethostname", name, len(name))  # to what it is already
    return "set"


def join(host, whose, kind):
    descriptor = os.open(f"/proc/{whose(host)}/ns/{kind}", os.O_RDONLY)
    if os.fstat(descriptor).st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino:
        raise Stopped("that is its own")
    syscall("setns", descriptor, 0)
    return f"is in the {kind} namespace of another"


for _kind in ("net", "mnt", "user", "pid", "ipc"):
    attempt(f"the {_kind} namespace of a host process (setns)")(
        partial(join, whose=lambda host: host.victim["pid"], kind=_kind)
    )


@attempt("the namespaces of a host process by pidfd (setns)")
def join_by_pidfd(host):
    descriptor = syscall("pidfd_open", host.victim["pid"], 0)
    syscall("setns", descriptor, NEWNS | NEWNET)
    return "joined"


@attempt("the user namespace above its own (NS_GET_PARENT)")
def parent_namespace(host):
    with open("/proc/self/ns/user", "rb") as own:
        parent = fcntl.ioctl(own, 0xB702)
    return f"has it as descriptor {parent}"


@attempt("the user namespace that owns its network (NS_GET_USERNS)")
def owning_namespace(host):
    with open("/proc/self/ns/net", "rb") as own:
        owner = fcntl.ioctl(own, 0xB701)
    if os.fstat(owner).st_ino == os.stat("/proc/self/ns/user").st_ino:
        raise Stopped("that is its own")
    syscall("setns", owner, 0)
    return "joined it"


# --- a user namespace, whose maker has every capability in it ---


@attempt("a user namespace by unshare")
def user_namespace_by_unshare(host):
    syscall("unshare", NEWUSER)
    return "made"


@attempt("a user namespace by clone")
def user_namespace_by_clone(host):
    pid = syscall("clone", NEWUSER | signal.SIGCHLD, None, None, None, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


@attempt("a user namespace by clone3")
def user_namespace_by_clone3(host):
    arguments = struct.pack("=8Q", NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = syscall("clone3", arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "made"


# --- privileges ---

KEPT = 0x4FB  # what a root child keeps (docs: capabilities)


def capabilities():
    with open("/proc/self/status") as file:
        sets = dict(line.split(":\t") for line in file if line.startswith("Cap"))
    return {name: int(value, 16) for name, value in sets.items()}


@attempt("capabilities beyond the kept ones")
def excess_capabilities(host):
    allowed = KEPT if os.geteuid() == 0 else 0
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        if capabilities()[name] & ~allowed:
            return f"{name} {capabilities()[name]:x}"
    raise Stopped(f"has {capabilities()['CapEff']:x}")


@attempt("privileges by a setuid program")
def setuid_program(host):
    """Start each and look at what it is; none is given anything to do."""
    before = (os.geteuid(), capabilities()["CapEff"])
    tried = 0
    for name in ("su", "sudo", "mount", "passwd", "newgrp", "chsh", "ping", "fusermount3"):
        path = f"/usr/bin/{name}"
        if not os.path.exists(path) or not os.stat(path).st_mode & stat.S_ISUID:
            continue
        tried += 1
        gained = privileges_of(path, before)
        if gained:
            return f"{name}: {gained}"
    raise Stopped(f"{tried} programs gave nothing" if tried else "no setuid programs here")


def privileges_of(path, before):
    """The effective uid of a started program, if it is above ours."""
    pid = os.fork()
    if pid == 0:
        os.setsid()  # not the terminal: su would read a password from it
        read_end, _ = os.pipe()
        os.dup2(read_end, 0)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.execv(path, [path])
    try:
        for _ in range(10):
            time.sleep(0.005)
            with open(f"/proc/{pid}/status") as file:
                lines = dict(line.split(":", 1) for line in file)
            if before[0] != 0 and lines["Uid"].split()[1] == "0":
                return "effective uid 0"
            if int(lines["CapEff"], 16) & ~before[1]:
                return f"capabilities {lines['CapEff'].strip()}"
        return ""
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@attempt("no-new-privileges taken back")
def new_privileges(host):
    libc.prctl(38, 0, 0, 0, 0)
    if libc.prctl(39, 0, 0, 0, 0) == 0:
        return "the process may gain privileges"
    raise Stopped("stays set")


@attempt("a program from memory that reads what its maker may not (memfd)")
def memory_program(host):
    descriptor = os.memfd_create("program")
    with open("/bin/cat", "rb") as program:
        os.write(descriptor, program.read())
    answer_read, answer_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(answer_write, 1)
        os.dup2(os.open("/dev/null", os.O_WRONLY), 2)
        os.execve(descriptor, ["cat", host.outside + "/secret"], {})
    os.close(answer_write)
    answer = os.read(answer_read, 4096)
    os.waitpid(pid, 0)
    if host.secret.encode() in answer:
        return "it read the secret"
    raise Stopped("it ran, as caged as its maker")


# --- system calls by other doors ---


@attempt("a socket by 32-bit system calls")
def other_table(host):
    if os.uname().machine != "x86_64":
        raise Stopped("no such table on this machine")
    # push rbx; eax=359 socket; ebx=2 AF_INET; ecx=2 SOCK_DGRAM; edx=0; int 0x80; pop rbx; ret
    code = bytes.fromhex("53b867010000bb02000000b90200000031d2cd805bc3")
    return machine_code(code)


@attempt("a vsock by x32 system calls")
def x32_table(host):
    number = libc.syscall(ctypes.c_long(0x40000000 | 41), 40, 1, 0)
    checked(number, "socket")
    return f"descriptor {number}"


def machine_code(code):
    memory = mmap.mmap(-1, 4096, prot=7)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if result < 0:
        raise OSError(-result, "int 0x80")
    return f"descriptor {result}"


@attempt("io_uring")
def io_uring(host):
    return f"ring {syscall('io_uring_setup', 4, ctypes.create_string_buffer(256))}"


@attempt("a BPF program")
def bpf_program(host):
    instructions = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence)
    ) + bytes(104)
    return f"program {syscall('bpf', 5, attributes, len(attributes))}"


@attempt("performance counters of the whole machine")
def machine_counters(host):
    attributes = struct.pack("=IIQ", 1, 112, 0) + bytes(96)
    return f"counter {syscall('perf_event_open', attributes, -1, 0, -1, 0)}"


@attempt("page faults of the kernel in its hands (userfaultfd)")
def user_faults(host):
    return f"descriptor {syscall('userfaultfd', 0o2000000)}"


@attempt("fanotify on the whole file system")
def fanotify(host):
    return f"descriptor {syscall('fanotify_init', 0x4, 0)}"


_NOTHING = ctypes.create_string_buffer(4096)
# The arguments are such that success would change nothing: what is asked is whether it is allowed.
for _what, _call in {
    "another kernel (kexec_load)": lambda: syscall("kexec_load", 0, 1 << 20, None, 0),
    "another kernel (kexec_file_load)": lambda: syscall("kexec_file_load", -1, -1, 0, None, 0),
    "a kernel module (init_module)": lambda: syscall("init_module", _NOTHING, 16, b""),
    "a kernel module (finit_module)": lambda: syscall("finit_module", -1, b"", 0),
    "removing a kernel module": lambda: syscall("delete_module", b"no_such_module", 0o4000),
    "a reboot": lambda: syscall("reboot", 0xFEE1DEAD, 672274793, 0, None),  # CAD_OFF
    "swapping": lambda: syscall("swapon", b"/no/such/file", 0),
    "process accounting": lambda: syscall("acct", None),
    "the kernel's log (syslog)": lambda: syscall("syslog", 3, _NOTHING, 64),
    "the clock": lambda: set_clock(),
    "the machine's ports (iopl)": lambda: checked(libc.iopl(3), "iopl"),
}.items():

    def privileged(host, call=_call):
        try:
            call()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                raise
            return f"allowed, but {errno.errorcode.get(error.errno)}"
        return "allowed"

    attempt(_what)(privileged)


def set_clock():
    now = time.time_ns()
    syscall("clock_settime", 0, struct.pack("=qq", now // 10**9, now % 10**9))


for _path in (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
    "/proc/sys/fs/binfmt_misc/register", "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/kernel/ns_last_pid", "/sys/power/state", "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup/cgroup.procs",
    "/sys/kernel/debug/sched/debug", "/sys/module/printk/parameters/time",
):  # fmt: skip

    def write_setting(host, path=_path):
        os.close(os.open(path, os.O_WRONLY))  # nothing is written: that it opens is enough
        return "open for writing"

    attempt(f"writing {_path}")(write_setting)
