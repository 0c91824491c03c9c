"""What the tests of denied files share: their records, and the process that serves the view."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import wait_until

if TYPE_CHECKING:
    from harness import Sessions

try:
    os.close(os.open("/dev/fuse", os.O_RDWR))
    _WHY_NOT = None
except OSError as error:
    _WHY_NOT = f"/dev/fuse: {error.strerror}"
needs_view = pytest.mark.skipif(_WHY_NOT is not None, reason=f"denied files are unseen: {_WHY_NOT}")


def events(sessions: Sessions, directory: Path | None = None) -> list[dict[str, Any]]:
    """The records of the view."""
    found = [record["event"] for record in sessions.records(directory)]
    return [event for event in found if event["type"] == "capability_decision"]


def denied(
    sessions: Sessions, directory: Path | None = None
) -> dict[tuple[str, str], dict[str, Any]]:
    """As `events`, by path and access."""
    entries = [event["entry"] for event in events(sessions, directory)]
    return {(entry["request"]["path"], entry["request"]["access"]): entry for entry in entries}


def below(place: Path, found: dict[tuple[str, str], dict[str, Any]]) -> set[tuple[str, str]]:
    """The records about what is below `place`, with relative paths."""
    return {
        (os.path.relpath(path, place), access)
        for path, access in found
        if path.startswith(f"{place}/")
    }


def children(process: int) -> list[int]:
    """The children of a process."""
    path = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in path.read_text().split()]


def holds_device(process: int) -> bool:
    """Tell whether a process has the descriptor of a FUSE file system."""
    found = []
    for link in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return "/dev/fuse" in found


def server_of(supervisor: int) -> int:
    """The only process of a run that holds the device. The kernel's list of children is only exact
    while none of them ends."""
    found: list[int] = []

    def look() -> bool:
        pending, tree = [supervisor], []
        while pending:
            tree.append(pending.pop())
            pending += children(tree[-1])
        found[:] = [process for process in tree if holds_device(process)]
        return bool(found)

    wait_until(look, "the view's server")
    (server,) = found
    return server
