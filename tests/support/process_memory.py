"""The descendants of a process, and a search in the memory of one."""

from __future__ import annotations

from pathlib import Path

import pytest


def descendants(pid: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, new = {pid}, [pid]
    while new:
        new = [child for one in new for child in children.get(one, ())]
        found.update(new)
    return found


def found_in_memory(pid: int, *texts: bytes) -> set[bytes]:
    """Return those of `texts` that the writable memory of a process has; none if it has ended."""
    found: set[bytes] = set()
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for line in maps:
                places, mode = line.split()[:2]
                if not mode.startswith("rw"):
                    continue
                start, end = (int(one, 16) for one in places.split("-"))
                memory.seek(start)
                try:
                    data = memory.read(min(end - start, 64 << 20))
                except OSError:
                    continue
                found |= {text for text in texts if text in data}
    except PermissionError:
        pytest.skip("this user can't read the memory of other processes")
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
