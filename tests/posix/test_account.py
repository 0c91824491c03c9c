"""Unusable homes: another user's, unsearchable, relative, missing, a file; or no account.

A run reports in one sentence what it can't do, and does the rest, without a traceback.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import RUN_SECONDS, as_user, landlock_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

WITHOUT_ACCOUNT = 54_321  # a container's made-up id


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user gets through to, as pytest's own are not, with odd homes."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o1777)
        (place / "state").mkdir()
        (place / "state").chmod(0o777)
        (place / "unsearchable").mkdir(mode=0o700)
        (place / "a-file").touch()
        (place / "partly").mkdir()
        (place / "partly" / ".docker").mkdir(mode=0o700)  # as root leaves it behind
        yield place


def run(
    user: str, place: Path, *arguments: str, home: str | None, state: bool = True, uid: int = 0
) -> tuple[int, str, str]:
    """Run `nono-trio` as a user (with another number, if there is one) and a HOME, if there is."""
    prefix, variables = as_user(user, Path("/etc/passwd"))
    if uid:
        prefix = [f"--reuid={uid}" if word.startswith("--reuid") else word for word in prefix]
        if f"--reuid={uid}" not in prefix:
            pytest.skip("only root can become an id without an account")
    environment = {"PATH": os.environ["PATH"], **variables}
    environment |= {} if home is None else {"HOME": home}
    environment |= {"NONO_TRIO_STATE_DIR": str(place / "state")} if state else {}
    done = subprocess.run(
        [*prefix, "-B", "-m", "nono_trio", *arguments],
        env=environment, cwd=place, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, timeout=RUN_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("user", "isolation", "home"),
    [
        ("ordinary", "namespace", "unsearchable"),
        ("ordinary", "namespace", "unsearchable/below"),
        ("ordinary", "namespace", "missing"),
        ("ordinary", "namespace", "a-file/below"),
        ("ordinary", "namespace", "partly"),
        ("ordinary", "namespace", "/dev/null"),
        pytest.param("ordinary", "landlock", "unsearchable", marks=landlock_isolation),
        pytest.param("ordinary", "landlock", "a-file", marks=landlock_isolation),
        ("root", "namespace", "a-file"),
        ("root", "namespace", "missing/below"),
        ("root", "namespace", "/proc/self"),
        ("ordinary", "namespace", "/dev/fd"),
    ],
)
def test_a_command_runs_whatever_its_home_is(
    place: Path, user: str, isolation: str, home: str
) -> None:
    command = ["run", "-s", "--isolation", isolation, "--", "sh", "-c", "echo ran"]
    assert run(user, place, *command, home=str(place / home)) == (0, "ran\n", "")


@pytest.mark.parametrize("home", ["relative", "", None])
def test_a_home_that_is_not_given_is_the_accounts(place: Path, home: str | None) -> None:
    code, said, _ = run("root", place, "run", "-s", "--", "sh", "-c", 'echo "$HOME"', home=home)
    assert code == 0
    assert os.path.isabs(said)
    run("ordinary", place, "run", "-s", "--", "true", home=home, state=False)
    assert not (place / "relative").exists()


def test_what_needs_a_home_that_cant_be_had_says_so(place: Path) -> None:
    command = ["run", "-s", "--home", "kept=x", "--", "true"]
    code, _, said = run("root", place, *command, home=str(place / "a-file"))
    assert code == 2
    assert said.startswith("nono-trio: error: --home kept and HOME=")
    code, _, said = run("ordinary", place, *command, home=str(place / "unsearchable"))
    assert code == 126
    assert said.endswith("hint: --home private needs none of them\n")


def test_an_id_without_an_account(place: Path) -> None:
    """No HOME, nothing in the account database: the home is /, and --audit-dir is enough."""

    def call(*arguments: str) -> tuple[int, str]:
        code, _, said = run(
            "ordinary", place, *arguments, home=None, state=False, uid=WITHOUT_ACCOUNT
        )
        return code, said

    assert call("run", "-s", "--audit-dir", str(place / "state"), "--", "true") == (0, "")
    code, said = call("run", "-s", "--", "true")
    assert code == 4
    assert said.endswith("hint: choose another place with --audit-dir\n")
    for arguments in (["audit", "list"], ["doctor"], ["run", "--dry-run", "--", "true"]):
        assert "Traceback" not in call(*arguments)[1]
