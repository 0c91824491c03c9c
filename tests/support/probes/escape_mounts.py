"""Ways out by changing what is mounted, with and without namespaces of its own."""

import ctypes
import os
from functools import partial

from escape_base import Stopped, attempt, checked, libc, read, syscall

NEWNS, NEWUSER = 0x20000, 0x10000000
NEWPID, NEWNET = 0x20000000, 0x40000000
MS_REMOUNT, MS_BIND = 32, 4096


def mount(source, target, kind, flags=0):
    checked(
        libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, None), "mount"
    )


def become_root_of_new(flags):
    """Enter new namespaces, as the root of the user namespace where that is allowed."""
    uid, gid = os.geteuid(), os.getegid()
    syscall("unshare", flags)
    if flags & NEWUSER:
        for name, text in (
            ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"),
        ):  # fmt: skip
            try:
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
            except OSError:  # Landlock: the namespace is ours all the same, without a name
                pass


def uncover_by_bind(host):
    """Bind the grant elsewhere without what is mounted in it: what was covered would show."""
    place = os.path.join(host.project, "place")
    os.makedirs(place, exist_ok=True)
    mount(os.path.join(host.home, ".config"), place, "", MS_BIND)
    return read(os.path.join(place, "gcloud", "token"), host)


def uncover_by_unmount(host):
    closed = os.path.join(host.home, ".config", "gcloud")
    checked(libc.umount2(closed.encode(), 2), "umount2")
    return read(os.path.join(closed, "token"), host)


def uncover_by_clone(host):
    tree = syscall(
        "open_tree", -100, os.path.join(host.home, ".config").encode(), 1
    )  # OPEN_TREE_CLONE, not recursive
    descriptor = os.open("gcloud/token", os.O_RDONLY, dir_fd=tree)
    return os.read(descriptor, 100).decode()


def clone_root(host):
    tree = syscall("open_tree", -100, b"/", 0x8001)
    descriptor = os.open(host.outside.lstrip("/") + "/secret", os.O_RDONLY, dir_fd=tree)
    return os.read(descriptor, 100).decode()


def mount_tmpfs(host):
    mount("none", host.project, "tmpfs")
    return "mounted"


def remount_writable(host):
    mount("", host.readonly, "", MS_REMOUNT | MS_BIND)
    with open(os.path.join(host.readonly, "file"), "a") as file:
        file.write(host.tag)
    return "wrote"


def set_writable(host):
    attributes = (ctypes.c_uint64 * 4)(0, 1, 0, 0)
    syscall("mount_setattr", -100, host.readonly.encode(), 0, attributes, 32)
    with open(os.path.join(host.readonly, "file"), "a") as file:
        file.write(host.tag)
    return "wrote"


def pivot(host):
    os.chdir(host.project)
    syscall("pivot_root", b".", b".")
    return "the root was changed"


def move_mount(host):
    tree = syscall("open_tree", -100, b"/", 0x1)
    syscall("move_mount", tree, b"", -100, host.project.encode(), 4)
    return "moved"


def new_file_system(host):
    """A mount that is never attached: fsopen, fsmount, then work below its descriptor."""
    context = syscall("fsopen", b"tmpfs", 0)
    syscall("fsconfig", context, 6, None, None, 0)  # FSCONFIG_CMD_CREATE
    syscall("fsmount", context, 0, 0)
    return "mounted a file system of its own"


def overlay(host):
    place = os.path.join(host.project, "merged")
    os.makedirs(place, exist_ok=True)
    mount("overlay", place, "overlay")
    return "mounted"


def change_root(host):
    os.chroot(host.project)
    return "chrooted"


MOUNTS = {
    "mounting a tmpfs": mount_tmpfs,
    "a bind mount that leaves out the covers": uncover_by_bind,
    "unmounting a cover": uncover_by_unmount,
    "a clone of a mount (open_tree) without its covers": uncover_by_clone,
    "a clone of the root (open_tree)": clone_root,
    "remounting a read-only grant for writing": remount_writable,
    "mount_setattr on a read-only grant": set_writable,
    "pivot_root": pivot,
    "move_mount": move_mount,
    "fsopen and fsmount": new_file_system,
    "an overlay mount": overlay,
    "chroot": change_root,
}


def in_new_namespaces(host, action):
    """As before, but as root of a user and a mount namespace of its own."""
    become_root_of_new(NEWUSER | NEWNS)
    got = action(host)
    # There, what it may do to its own tree is its own; only a foreign text or file counts.
    if host.secret in str(got) or "wrote" in str(got):
        return got
    raise Stopped(f"{got}, in namespaces of its own: nothing foreign")


for _name, _action in MOUNTS.items():
    attempt(_name)(_action)
    attempt(f"{_name}, in new namespaces")(partial(in_new_namespaces, action=_action))
