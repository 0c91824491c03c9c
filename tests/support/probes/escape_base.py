"""Shared by escape_*.py: the register of attempts, system calls by number, exchanges."""

import ctypes
import errno
import os
import socket
import time
import zlib

ATTEMPTS = {}
WAIT_SECONDS = 0.3  # for an answer; the canaries answer within a millisecond

libc = ctypes.CDLL(None, use_errno=True)

# x86_64, then the numbers that newer machines share.
_NUMBERS = {
    "add_key": (248, 217), "bpf": (321, 280), "clone": (56, 220), "delete_module": (176, 106),
    "execveat": (322, 281), "fanotify_init": (300, 262), "finit_module": (313, 273),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fsopen": (430, 430), "init_module": (175, 105),
    "io_uring_setup": (425, 425), "kcmp": (312, 272), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "keyctl": (250, 219), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "mq_open": (240, 180), "mq_timedreceive": (243, 183),
    "msgget": (68, 186), "msgrcv": (70, 188), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41),
    "process_madvise": (440, 440), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117),
    "reboot": (169, 142), "renameat2": (316, 276), "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138), "semctl": (66, 191), "semget": (64, 190),
    "sendmmsg": (307, 269), "setns": (308, 268), "shmat": (30, 196), "shmget": (29, 194),
    "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131), "unshare": (272, 97),
    "userfaultfd": (323, 282), "name_to_handle_at": (303, 264), "acct": (163, 89),
    "sethostname": (170, 161), "clock_settime": (227, 112), "prlimit64": (302, 261),
    "io_uring_enter": (426, 426), "clone3": (435, 435), "fchmodat2": (452, 452),
    "sched_setattr": (314, 274), "sched_getattr": (315, 275), "ioprio_set": (251, 30),
    "ioprio_get": (252, 31), "openat2": (437, 437), "openat": (257, 56), "mknodat": (259, 33),
}  # fmt: skip
_COLUMN = 0 if os.uname().machine == "x86_64" else 1


class Stopped(Exception):
    """The attempt got nothing; the text says how it ended."""


def attempt(name):
    """Register a function of one argument, the laid-out host, as the attempt `name`."""

    def register(action):
        if name in ATTEMPTS:
            raise ValueError(f"twice: {name}")
        ATTEMPTS[name] = action
        return action

    return register


def tag(name):
    """Return the text that an attempt sends, so that the canary knows which one arrived."""
    return f"tag-{zlib.crc32(name.encode()):08x}"


def reason(error):
    """An OSError in a few words; its text may have anything in it."""
    return errno.errorcode.get(error.errno or 0) or type(error).__name__


def syscall(name, *arguments):
    """Call the kernel; bytes, None and ctypes objects go as pointers, numbers as long."""
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(_NUMBERS[name][_COLUMN]), *given)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


def checked(result, what):
    """Raise for a libc call that failed."""
    if result == -1:
        raise OSError(ctypes.get_errno(), what)
    return result


def secret_in(data, host):
    """Open if `data` has the secret in it, else stopped."""
    if isinstance(data, bytes):
        data = data.decode("latin-1")
    if host.secret in data:
        return "got the secret"
    raise Stopped(f"got {data[:60]!r}" if data else "nothing came")


def read(path, host):
    """Read a file that has the secret in it."""
    with open(path, "rb", buffering=0) as file:
        return secret_in(file.read(65_536), host)


def exchange(sock, host):
    """Send the attempt's tag; open if the answer has the secret."""
    with sock:
        sock.settimeout(WAIT_SECONDS)
        sock.send(host.tag.encode())
        return secret_in(sock.recv(65_536), host)


def reach(family, kind, address, host, protocol=0):
    """Connect a new socket and exchange."""
    sock = socket.socket(family, kind, protocol)
    sock.settimeout(WAIT_SECONDS)
    sock.connect(address)
    return exchange(sock, host)


def present(host, name):
    """Return a fact about the host by its name; some machines lack some of them."""
    value = getattr(host, name, None)
    if value is None:
        raise Stopped(f"this machine has no {name} to try it on")
    return value


def answer_knock(host, listener):
    """Ask the other side to connect to the port of `listener`, and give it the tag."""
    port = listener.getsockname()[1]
    knock = os.path.join(host.project, f"knock-{host.tag}")
    with open(knock + ".new", "w") as file:
        file.write(str(port))
    os.rename(knock + ".new", knock)
    listener.settimeout(WAIT_SECONDS)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(WAIT_SECONDS)
        connection.send(host.tag.encode())
        return secret_in(connection.recv(4096), host)


def wait_for(condition, seconds=WAIT_SECONDS):
    """Tell whether `condition` becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def overwrite(path, host, flags=os.O_WRONLY):
    """Write to an existing file; the other side looks whether it changed."""
    descriptor = os.open(path, flags)
    os.write(descriptor, host.tag.encode())
    return f"wrote {path}"


def is_handed_over(found):
    """Tell whether a status is that of one of the standard streams."""
    return any(os.path.samestat(found, os.fstat(stream)) for stream in (0, 1, 2))


def first_opened(paths, flags):
    """Open the first that opens; raise the last error if none does.

    Not the terminal that it was handed: in namespace isolation that is there as /dev/console.
    """
    last = None
    for path in paths:
        try:
            opened = os.open(path, flags | os.O_NONBLOCK)
        except OSError as error:
            last = error
            continue
        with os.fdopen(opened, "rb", buffering=0) as file:
            if not is_handed_over(os.fstat(file.fileno())):
                return f"opened {path}"
        last = Stopped(f"{path} is its own terminal")
    raise last
