"""The places of the answering view as FUSE has them: by number, with attributes and children."""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from . import fuse_messages as fuse
from .view_tree import Place


class Node(NamedTuple):
    """A place with its number and what is in it."""

    place: Place
    attributes: fuse.Attributes
    children: dict[bytes, int]


def numbered(places: Sequence[Place]) -> dict[int, Node]:
    """Number the places. A mount point is an empty file or directory: its mount covers it."""
    nodes: dict[int, Node] = {}
    numbers: dict[str, int] = {}
    for number, place in enumerate(places, start=fuse.ROOT):
        mode = place.mode
        if not (stat.S_ISDIR(mode) or (stat.S_ISLNK(mode) and not place.is_mount)):
            mode = stat.S_IFREG  # what a file is mounted on
        size = len(os.fsencode(place.target))
        attributes = fuse.Attributes(number, mode, place.uid, place.gid, size)
        nodes[number] = Node(place, attributes, {})
        numbers[place.path] = number
        if place.path != "/":
            directory, _, name = place.path.rpartition("/")
            nodes[numbers[directory or "/"]].children[os.fsencode(name)] = number
    return nodes
