"""Ways to get a directory of its own into the place of one that is covered inside a grant.

The grant is `deep`, the covered directory `deep/b/config/nono-trio`: profiles, which the next run
would believe. A cover hides what is in it; what leads to it must not be moved out of the way.
"""

import os
from functools import partial

from escape_base import attempt, checked, libc, syscall
from escape_mounts import MS_BIND, NEWNS, NEWUSER, become_root_of_new

RENAME_EXCHANGE = 2
MS_REC = 0x4000
PARTS = ("b", "b/config", "b/config/nono-trio")


def plant(top, host):
    """Write a profile in the place of the covered one; the goal of the moves."""
    directory = os.path.join(top, PARTS[-1])
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "p.toml"), "w") as file:
        file.write(host.tag)
    return "wrote a profile of its own"


def by_rename(top, part):
    os.rename(os.path.join(top, part), os.path.join(top, "aside"))


def by_exchange(top, part):
    mine = os.path.join(top, "mine")
    os.makedirs(mine, exist_ok=True)
    there = os.path.join(top, part)
    syscall("renameat2", -100, there.encode(), -100, mine.encode(), RENAME_EXCHANGE)


def by_descriptor(top, part):
    """By a name without the mount points: that of the parent's descriptor."""
    outer, name = os.path.split(os.path.join(top, part))
    directory = os.open(outer, os.O_RDONLY | os.O_DIRECTORY)
    os.rename(name, "aside", src_dir_fd=directory, dst_dir_fd=directory)


def by_second_mount(top, part):
    """A second name for the same tree: the grant, mounted once more inside of itself."""
    place = os.path.join(top, "place")
    os.makedirs(place, exist_ok=True)
    flags = MS_BIND | MS_REC
    checked(libc.mount(top.encode(), place.encode(), None, flags, None), "mount")
    by_rename(place, part)


def by_unmounting(top, part):
    for path in reversed(PARTS):
        libc.umount2(os.path.join(top, path).encode(), 2)
    by_rename(top, part)


def move(host, way, part):
    way(host.deep, part)
    return plant(host.deep, host)


def move_in_new_namespaces(host, way, part):
    become_root_of_new(NEWUSER | NEWNS)
    return move(host, way, part)


WAYS = {
    "rename": by_rename,
    "exchange": by_exchange,
    "a descriptor": by_descriptor,
    "a second mount": by_second_mount,
    "unmounting first": by_unmounting,
}

for _way, _action in WAYS.items():
    for _part in PARTS:
        _name = f"moving what leads to a cover by {_way}: {_part}"
        attempt(_name)(partial(move, way=_action, part=_part))
        attempt(f"{_name}, in new namespaces")(
            partial(move_in_new_namespaces, way=_action, part=_part)
        )


@attempt("writing into a cover")
def write_into_cover(host):
    return plant(host.deep, host)
