"""The tree of the answering view: the directories, links and mount points that lead to grants.

It is read from the complete plain view, so both views show the same. Rules: mounts are not read;
a tree from another process is checked by type.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_TYPES: Final = (str, int, int, int, str, bool)


class TreeError(Exception):
    """The message has no valid tree."""


class Place(NamedTuple):
    """One place of the view; `path` is "/" or begins with it, `target` is a symlink's."""

    path: str
    mode: int
    uid: int
    gid: int
    target: str = ""
    is_mount: bool = False


def places_of(
    root: str, home: str | None = None, inside: Sequence[str] | None = None
) -> list[Place]:
    """Return every place of the plain view at `root`, parents before what is in them.

    `home`: a mount that becomes an overlay. Only its directories count: they lead to grants. The
    overlay finds its files and links without FUSE. `inside`: the mounts in a home that is full of
    other files, by their paths in it; only what leads to them counts.
    """
    found = os.lstat(root)
    own = Place("/", found.st_mode, found.st_uid, found.st_gid)
    places = [own, *_below(root, "", found.st_dev, home, enters=inside is None)]
    if home is not None and not any(place.path == home for place in places):
        places += _way_to(root, home, places)
        if inside is None:
            device = os.lstat(root + home).st_dev
            places += _below(root, home, device, home, enters=True)
    if home is not None and inside is not None:
        places += _leading(root, home, inside)
    return places


def _way_to(root: str, home: str, places: Sequence[Place]) -> Iterator[Place]:
    """Yield a home in a mount of the cage's own (/tmp), and the directories that lead to it.

    FUSE has them too, below the mount: there the overlay finds its lower side.
    """
    known = {place.path for place in places}
    names = home.strip("/").split("/")
    for count in range(1, len(names) + 1):
        path = "/" + "/".join(names[:count])
        if path not in known:
            found = os.lstat(root + path)
            yield Place(path, found.st_mode, found.st_uid, found.st_gid)


def _leading(root: str, home: str, inside: Sequence[str]) -> Iterator[Place]:
    """Yield the mounts `inside` the home with the directories that lead to them."""
    done = set()
    for mount in inside:
        names = mount.split("/")
        for count in range(1, len(names) + 1):
            path = f"{home}/{'/'.join(names[:count])}"
            if path not in done:
                done.add(path)
                found = os.lstat(root + path)
                is_mount = count == len(names)
                yield Place(path, found.st_mode, found.st_uid, found.st_gid, "", is_mount)


def mounts_below(directory: str, table: str) -> list[str]:
    """Return the upper mounts below `directory`, by their paths in it; `table`: a mountinfo file.

    Raises OSError.
    """
    prefix = f"{directory}/"
    with open(table, "rb") as file:
        points = {os.fsdecode(unescaped(line.split()[4])) for line in file}
    inside = sorted(point[len(prefix) :] for point in points if point.startswith(prefix))
    upper: list[str] = []
    for path in inside:
        if not any(is_below(path, one) for one in upper):
            upper.append(path)
    return upper


def unescaped(path: bytes) -> bytes:
    """Return a path of mountinfo, which has a space as \\040."""
    first, *escaped = path.split(b"\\")
    return first + b"".join(bytes([int(one[:3], 8)]) + one[3:] for one in escaped)


def _below(
    root: str, directory: str, device: int, home: str | None, *, enters: bool
) -> Iterator[Place]:
    for name in sorted(os.listdir(root + directory)):
        path = f"{directory}/{name}"
        found = os.lstat(root + path)
        # Every file system of the view is another than its root's, so this tells a mount exactly.
        is_mount = found.st_dev != device and path != home
        is_link = stat.S_ISLNK(found.st_mode) and not is_mount
        is_directory = stat.S_ISDIR(found.st_mode)
        if home is not None and is_below(path, home) and not (is_mount or is_directory):
            continue
        target = os.readlink(root + path) if is_link else ""
        yield Place(path, found.st_mode, found.st_uid, found.st_gid, target, is_mount)
        if is_directory and not is_mount and (enters or path != home):
            yield from _below(root, path, found.st_dev, home, enters=enters)


def with_directories(
    places: list[Place], directories: list[str], home: str | None = None
) -> list[Place]:
    """Return the places, and `directories` with those above them where they are missing.

    A directory in a mount, behind a link or at a file is left out: FUSE is not asked there, except
    in the `home`. A new one belongs to whom the nearest directory above it belongs.
    """
    known = {place.path: place for place in places}
    for directory in directories:
        is_of_home = home is not None and is_below(f"{directory}/", home)
        asked = [path for path in known if is_of_home and is_below(home or "", path)]
        above = known["/"]
        names = directory.strip("/").split("/")
        for count in range(1, len(names) + 1):
            path = "/" + "/".join(names[:count])
            place = known.setdefault(path, Place(path, above.mode, above.uid, above.gid))
            if not stat.S_ISDIR(place.mode) or (place.is_mount and path not in asked):
                break
            above = place
    return list(known.values())


def is_below(path: str, directory: str) -> bool:
    """Return whether `path` is in `directory`, which is not the root."""
    return path.startswith(directory + "/")


def decode_tree(message: object) -> list[Place]:
    """Return the places of a message that carries them; raises TreeError."""
    if not isinstance(message, list):
        raise TreeError(f"expected a list of places, got {type(message).__name__}")
    for entry in message:
        if not isinstance(entry, list) or tuple(type(value) for value in entry) != _TYPES:
            raise TreeError("a place has a value of another type")
    return [Place(*entry) for entry in message]
