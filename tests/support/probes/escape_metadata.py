"""Ways to change the metadata of files that the command may not open: modes, owners, times.

Each attempt sets the current value, so a success changes no file; the races set a mode of their
own.
"""

import ctypes
import os
import stat
from functools import partial

from escape_base import Stopped, attempt, checked, libc, syscall
from escape_connect_broker import race

HERE, EMPTY_PATH = -100, 0x1000  # AT_FDCWD, AT_EMPTY_PATH


def outside(host):
    return os.path.join(host.outside, "touchable")


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def by_directory(path):
    place = os.open(os.path.dirname(path), os.O_PATH)
    os.chmod(os.path.basename(path), mode_of(path), dir_fd=place)


def by_fchmodat2(path):
    held = os.open(path, os.O_PATH)
    syscall("fchmodat2", held, b"", mode_of(path), EMPTY_PATH)


def by_held(path):
    os.chmod(f"/proc/self/fd/{os.open(path, os.O_PATH)}", mode_of(path))


def by_root(path):
    os.chmod(f"/proc/self/root{path}", mode_of(path))


def by_working_directory(path):
    os.chdir(os.path.dirname(path))
    os.chmod(os.path.basename(path), mode_of(path))


def owner_of_held(path):
    held = os.open(path, os.O_PATH)
    checked(libc.fchownat(held, b"", os.getuid(), -1, EMPTY_PATH), "fchownat")


def times(call, *arguments):
    now = os.stat(arguments[0])
    seconds = (ctypes.c_long * 4)(int(now.st_atime), 0, int(now.st_mtime), 0)
    if call == "utime":
        seconds = (ctypes.c_long * 2)(int(now.st_atime), int(now.st_mtime))
    before = (HERE,) if call == "futimesat" else ()
    checked(getattr(libc, call)(*before, arguments[0].encode(), seconds), call)


def attribute(call, path):
    checked(getattr(libc, call)(path.encode(), b"user.test", b"1", 1, 0), call)


def no_attribute(path):
    libc.setxattr(path.encode(), b"user.gone", b"1", 1, 0)
    checked(libc.removexattr(path.encode(), b"user.gone"), "removexattr")


CHANGES = {
    "mode (chmod)": lambda path: os.chmod(path, mode_of(path)),
    "mode (fchmodat)": by_directory, "mode (fchmodat2)": by_fchmodat2,
    "mode (a held descriptor)": by_held, "mode (/proc/self/root)": by_root,
    "mode (the working directory)": by_working_directory,
    "owner (chown)": lambda path: os.chown(path, os.getuid(), -1),
    "owner (lchown)": lambda path: os.lchown(path, os.getuid(), -1),
    "owner (fchownat)": owner_of_held,
    "times (utime)": partial(times, "utime"), "times (utimes)": partial(times, "utimes"),
    "times (futimesat)": partial(times, "futimesat"), "times (utimensat)": os.utime,
    "attributes (setxattr)": partial(attribute, "setxattr"),
    "attributes (lsetxattr)": partial(attribute, "lsetxattr"),
    "attributes (removexattr)": no_attribute,
}  # fmt: skip


def change(host, action, place):
    action(place(host))
    return "changed"


def by_symlink(host):
    link = os.path.join(host.project, f"link-{host.tag}")
    os.symlink(outside(host), link)
    return link


def own_directory(host):
    return os.path.dirname(host.log)


for _name, _action in CHANGES.items():
    attempt(f"metadata outside: {_name}")(partial(change, action=_action, place=outside))
attempt("metadata outside: mode (a symlink of its own)")(
    partial(change, action=CHANGES["mode (chmod)"], place=by_symlink)
)
for _name, _place in {
    "the ledger": lambda host: os.path.join(host.state, "audit/ledger.ndjson"),
    "its session's directory": own_directory,
    "the state directory": lambda host: host.state,
}.items():
    attempt(f"changing the mode of {_name}")(
        partial(change, action=CHANGES["mode (chmod)"], place=_place)
    )


@attempt("the mode of a device (/dev/null)")
def device(_host):
    os.chmod("/dev/null", mode_of("/dev/null"))
    return "changed"


def read_only(host):
    return os.open(os.path.join(host.readonly, "file"), os.O_RDONLY)


@attempt("metadata of a file that is granted for reading, by fchmod")
def fchmod_read_only(host):
    held = read_only(host)
    os.fchmod(held, mode_of(held))
    return "changed"


@attempt("metadata of a file that is granted for reading, by fchown")
def fchown_read_only(host):
    os.fchown(read_only(host), os.getuid(), -1)
    return "changed"


@attempt("metadata of a file that is granted for reading, by fsetxattr")
def fsetxattr_read_only(host):
    checked(libc.fsetxattr(read_only(host), b"user.test", b"1", 1, 0), "fsetxattr")
    return "changed"


# --- what is judged is what is changed, whatever changes meanwhile ---


def own_file(host):
    path = os.path.join(host.project, f"own-{host.tag}")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path


def shown(path, before):
    now = mode_of(path)
    return f"its mode became {now:o}" if now != before else None


@attempt("a path that changes while its mode is changed")
def changing_path(host):
    own, wanted = own_file(host).encode(), outside(host).encode()
    size = max(len(own), len(wanted)) + 1
    buffer = ctypes.create_string_buffer(own, size)
    before = mode_of(wanted)
    names = [name.ljust(size, b"\0") for name in (own, wanted)]

    def swap():
        for name in names:
            ctypes.memmove(buffer, name, size)

    def attack():
        libc.chmod(buffer, before ^ 0o010)
        return shown(wanted, before)

    return race(swap, attack)


@attempt("a symlink that changes while its mode is changed")
def changing_symlink(host):
    link = os.path.join(host.project, f"link-{host.tag}")
    turns = [own_file(host), outside(host)]
    before = mode_of(turns[1])

    def swap():
        os.symlink(turns[0], link + ".new")
        os.rename(link + ".new", link)
        turns.reverse()

    def attack():
        libc.chmod(link.encode(), before ^ 0o010)
        return shown(outside(host), before)

    return race(swap, attack)


@attempt("a descriptor that changes while its mode is changed")
def changing_descriptor(host):
    own, wanted = os.open(own_file(host), os.O_RDONLY), read_only(host)
    shared = os.dup(own)
    before = mode_of(wanted)

    def swap():
        for descriptor in (own, wanted):
            os.dup2(descriptor, shared)

    def attack():
        libc.fchmod(shared, before ^ 0o010)
        return shown(wanted, before)

    return race(swap, attack)


@attempt("a directory that becomes a file while it is made set-group-id")
def changing_kind(host):
    base = os.path.join(host.project, f"kind-{host.tag}")
    paths = [base + "-now", base + "-file", base + "-directory"]
    os.close(os.open(paths[1], os.O_CREAT | os.O_WRONLY, 0o755))
    os.mkdir(paths[0])

    def swap():
        os.rename(paths[0], paths[2])
        os.rename(paths[1], paths[0])
        os.rename(paths[0], paths[1])
        os.rename(paths[2], paths[0])

    def attack():
        libc.chmod(paths[0].encode(), 0o2755)
        for path in paths[:2]:
            try:
                found = os.stat(path).st_mode
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found) and found & stat.S_ISGID:
                return "a set-group-id file"
        return None

    try:
        return race(swap, attack)
    except FileNotFoundError as error:
        raise Stopped("the swap itself was overtaken") from error
