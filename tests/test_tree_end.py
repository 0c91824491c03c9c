"""Landlock and no isolation: the tree of a run is ended whole, in time, before the run is over.

In namespaces the kernel does it. A run that does not end fails by the harness' own bound.
"""

from __future__ import annotations

import os

import pytest
from harness import Sessions, landlock_isolation, processes_with

pytestmark = landlock_isolation


@pytest.mark.parametrize(
    ("tree", "count"), [("sleepers", 300), ("chains", 15), ("nested", 700), ("bomb", 2)]
)
def test_nothing_of_the_tree_outlives_the_run(sessions: Sessions, tree: str, count: int) -> None:
    marker = f"marker-{tree}-{os.getpid()}"
    limit = ["--max-processes", "1500"] if tree == "bomb" and os.geteuid() != 0 else []
    if tree == "bomb" and not limit:
        pytest.skip("root has no limit on processes without a cgroup: it would take the machine")
    done = sessions.python(
        ["--isolation", "landlock", *limit], "stall_tree.py", tree, str(count), marker
    )
    assert processes_with(marker) == []
    assert done.stdout == "planted\n", done.stderr
    assert done.returncode == 0
    assert sessions.verdict()[1]["verdict"] == "verified"
