"""Another cage replaces a granted directory while a run starts: the new one is not granted.

In landlock isolation, where Landlock is the only file sandbox; a view compares mounts afterwards.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from harness import RUN_SECONDS, Sessions, landlock_isolation

from nono_trio.sandbox.broker.connect_broker import Openings
from nono_trio.sandbox.broker.metadata_broker import MetadataBroker
from nono_trio.sandbox.launcher.tempdir import PREFIX, identity_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = landlock_isolation


def swap_as_made(directory: Path, target: Path, swapped: threading.Event) -> None:
    """As a process of a cage to which `directory` was granted: the temporary directory that
    appears there becomes a symlink."""
    while not swapped.is_set():
        for name in os.listdir(directory):
            if name.startswith(PREFIX):
                os.rename(directory / name, directory / f"moved-{name}")
                (directory / name).symlink_to(target)
                swapped.set()


@pytest.mark.parametrize("home", ["private", "closed"])
def test_a_temporary_directory_that_becomes_a_symlink(
    sessions: Sessions, tmp_path: Path, home: str
) -> None:
    """With TMPDIR inside what another cage may write."""
    shared, closed = tmp_path / "shared", tmp_path / "closed"
    shared.mkdir()
    closed.mkdir()
    (closed / "secret").write_text("secret\n")
    sessions.variables["TMPDIR"] = str(shared)
    swapped = threading.Event()
    swapper = threading.Thread(target=swap_as_made, args=(shared, closed, swapped))
    swapper.start()
    try:
        done = sessions.run(
            "--isolation", "landlock", "--home", home,
            "--", "sh", "-c", f"cat {closed}/secret; echo planted > {closed}/planted",
        )  # fmt: skip
    finally:
        was_swapped = swapped.is_set()
        swapped.set()
        swapper.join()
    assert was_swapped
    assert done.stdout == ""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert os.listdir(closed) == ["secret"]


def test_the_identity_of_a_temporary_directory_is_not_a_symlinks(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(NotADirectoryError):
        identity_of(str(tmp_path / "link"))


BACK_IN_TIME = """
import os, sys
from nono_trio.sandbox.launcher.cage_plan import CageGrant
from nono_trio.sandbox.launcher.steps import StageError, granted
from nono_trio.sandbox.launcher.linux.launch import hold_grants, require_same_grants
from nono_trio.sandbox.launcher.nono_py import library_path, load_library
directory, when = sys.argv[1:]
path, other, aside = (f"{directory}/{name}" for name in ("granted", "other", "aside"))
found = os.stat(path)
grants = [CageGrant(path, "read", False)]
identities = {path: (found.st_dev, found.st_ino)}
def swap():
    for old, new in ((path, aside), (other, path), (aside, other)):
        os.rename(old, new)
held = hold_grants(grants, identities)
library = load_library(library_path())
if when != "never":
    swap()
grants.append(CageGrant(directory, "write", False))
library.apply_landlock(granted(library, grants))
if when == "and back":
    swap()
try:
    require_same_grants(held, identities)
except StageError as failed:
    print("refused:", failed.text)
else:
    print("granted")
"""


@pytest.mark.parametrize(
    ("when", "answer"), [("never", "granted"), ("before", "refused"), ("and back", "refused")]
)
def test_what_landlock_was_told_is_what_was_looked_at(
    tmp_path: Path, when: str, answer: str
) -> None:
    """The library takes paths: another directory may be there for just the moment that it looks."""
    for name in ("granted", "other"):
        (tmp_path / name).mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BACK_IN_TIME, str(tmp_path), when],
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.stdout.partition(":")[0].strip() == answer, done.stderr


def test_the_broker_opens_nothing_that_took_a_grants_place(tmp_path: Path) -> None:
    """It knows by paths where a cage may connect and change files, and looks after the launch."""
    for name in ("granted", "swapped", "closed"):
        (tmp_path / name).mkdir()
    paths = [str(tmp_path / name) for name in ("granted", "swapped")]
    identities = {path: identity_of(path) for path in paths}
    (tmp_path / "swapped").rmdir()
    (tmp_path / "swapped").symlink_to(tmp_path / "closed")
    grants = [(path, "readwrite", False) for path in paths]
    openings = Openings.of(1, [], grants, paths, identities)
    assert set(openings.paths) == {paths[0]}
    broker = MetadataBroker.of(grants, identities, elsewhere=False)
    assert [*broker.changed] == [*broker.watched] == paths[:1]
