"""`--fail-on-deny` judges jobs of real tools: innocent ones end with 0, guilty ones with 3.

A tool that is not installed skips its jobs; a skip says what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from harness import allow, free_port, landlock_isolation, needs_curl
from judged_jobs import CURL, GUILTY, INNOCENT, USERS, Job, Judge, host_of, needs_view

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Origin, Sessions


@pytest.fixture
def judge(open_place: Path, origin: Origin) -> Callable[[str, Job, str], int]:
    """Judge one job as a user in an isolation; returns the exit code."""

    def judge(user: str, job: Job, isolation: str) -> int:
        wrapped = needs_view(user, open_place) if job.fuse else []
        return Judge(open_place, origin, user, wrapped).exit_code(job, isolation)

    return judge


def test_there_are_enough_jobs() -> None:
    assert min(len(INNOCENT), len(GUILTY)) >= 20


ALONE = [name for name, job in INNOCENT.items() if not job.shares]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", ALONE)
def test_an_innocent_job_succeeds(
    judge: Callable[[str, Job, str], int], origin: Origin, name: str, user: str
) -> None:
    job = INNOCENT[name]
    assert judge(user, job, "namespace") == 0
    assert bool(origin.seen) == job.serves  # what it may do is done


@pytest.mark.parametrize(
    ("user", "isolation"),
    [
        *((user, "namespace") for user in USERS),
        pytest.param("nobody", "landlock", marks=landlock_isolation),
    ],
)
def test_innocent_jobs_in_one_cage_succeed(
    open_place: Path, origin: Origin, user: str, isolation: str
) -> None:
    """A job with one denial that counts would make the run of all fail."""
    jobs = {
        name: job
        for name, job in INNOCENT.items()
        if job.shares and (job.landlock or isolation == "namespace")
    }
    missing = {job.needs for job in jobs.values() if shutil.which(job.needs) is None}
    jobs = {name: job for name, job in jobs.items() if job.needs not in missing}
    assert len(jobs) > 4
    assert Judge(open_place, origin, user, []).exit_code_of_all(jobs, isolation) == 0
    served = {name for name in jobs if f"{host_of(name)}:{origin.port}" in origin.hosts}
    assert served == {name for name, job in jobs.items() if job.serves}  # what they may do is done
    if missing:
        pytest.skip(f"without the jobs of {', '.join(missing)}: not installed")


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("name", GUILTY)
def test_a_guilty_job_fails(judge: Callable[[str, Job, str], int], name: str, user: str) -> None:
    assert judge(user, GUILTY[name], "namespace") == 3


@landlock_isolation
@pytest.mark.parametrize("name", [name for name in ALONE if INNOCENT[name].landlock])
def test_an_innocent_job_succeeds_in_landlock_isolation(
    judge: Callable[[str, Job, str], int], origin: Origin, name: str
) -> None:
    job = INNOCENT[name]
    assert judge("nobody", job, "landlock") == 0
    assert bool(origin.seen) == job.serves


@landlock_isolation
@pytest.mark.parametrize("name", [name for name, job in GUILTY.items() if job.landlock])
def test_a_guilty_job_fails_in_landlock_isolation(
    judge: Callable[[str, Job, str], int], name: str
) -> None:
    assert judge("nobody", GUILTY[name], "landlock") == 3


def test_what_the_cage_shows_is_warned_of(sessions: Sessions, origin: Origin) -> None:
    """No look-up is seen there, so the tripwire can't fire."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse can't be opened here")
    done = sessions.run(
        "--isolation", "namespace", "--read", "/usr", "--fail-on-path", "/usr/key",
        "--fail-on-path", "/srv/key", "--", "true",
    )  # fmt: skip
    assert done.returncode == 0
    assert "warning: --fail-on-path /usr/key can't fail the run: the cage shows /usr" in done.stderr
    assert "/srv/key" not in done.stderr


@landlock_isolation
def test_a_tripwire_that_can_not_fire_is_warned_of(sessions: Sessions) -> None:
    done = sessions.run("--isolation", "landlock", "-s", "--fail-on-path", "~/.ssh", "--", "true")
    assert done.returncode == 0
    assert "warning: --fail-on-path sees no look-ups of files here" in done.stderr


@pytest.mark.parametrize(
    "options",
    [pytest.param(["--isolation=landlock"], marks=landlock_isolation), ["--transparent=off"]],
)
def test_a_network_seen_in_part_is_warned_of(sessions: Sessions, options: list[str]) -> None:
    done = sessions.run(*options, "--fail-on-deny", "--", "true")
    assert done.returncode == 0
    assert "warning: --fail-on-deny sees no " in done.stderr
    assert "warning: --fail-on-deny" not in sessions.run("--fail-on-deny", "--", "true").stderr


@needs_curl
def test_run_list_and_show_have_the_same_numbers_and_both_exit_codes(
    sessions: Sessions, origin: Origin
) -> None:
    dead = free_port()
    script = (
        f"{CURL} http://mirror.example.com:{origin.port}/ http://mirror.example.com:{dead}/"
        " --next --noproxy '*' -4 -sS https://evil.example.net/; getent hosts x.example.net; true"
    )
    done = sessions.run(
        "--isolation", "namespace", "--fail-on-deny", *allow(origin, "mirror.example.com"),
        "--allow-domain", f"mirror.example.com:{dead}",
        "--resolve", f"mirror.example.com:{dead}:127.0.0.1", "--", "sh", "-c", script,
    )  # fmt: skip
    numbers = "2 denied, 1 failed, 1 allowed"
    assert done.returncode == 3
    assert f"nono-trio: {numbers}\n" in done.stderr
    assert f"nono-trio: failed mirror.example.com:{dead} (1x): can't connect to" in done.stderr
    assert "exit code 3: --fail-on-deny, and 2 denied: evil.example.net:443" in done.stderr
    shown = sessions.call("audit", "show").stdout
    assert numbers in shown
    assert "exit code 3 (--fail-on-deny; the command's own was 0)" in shown
    (row,) = json.loads(sessions.call("audit", "list", "--json").stdout)["sessions"]
    assert (row["denied"], row["failed"], row["allowed"]) == (2, 1, 1)
    assert (row["exit_code"], row["run_exit_code"]) == (0, 3)
    assert numbers in sessions.call("inspect", "latest").stdout
    assert sessions.verdict()[0] == 0


@pytest.mark.parametrize("path", ["/", "//", "/srv/.."])
def test_the_root_is_no_tripwire(sessions: Sessions, path: str) -> None:
    """Before: it was taken for the working directory."""
    done = sessions.run("--dry-run", "--fail-on-path", path, "--", "true")
    assert done.returncode == 2
    assert "hint: --fail-on all " in done.stderr


def test_a_pattern_in_a_directory_is_refused(sessions: Sessions) -> None:
    """Before: it was taken, and matched no look-up that a cage can see."""
    done = sessions.run("--dry-run", "--fail-on-path", "/home/*/.ssh/id_x", "--", "true")
    assert done.returncode == 2
    assert "expected * in the last part of the path only, got /home/*/.ssh/id_x" in done.stderr


@pytest.mark.parametrize("entry", ["", "https://a.example.com", "a.example.com:0", "*"])
def test_an_invalid_expectation_is_a_usage_error(sessions: Sessions, entry: str) -> None:
    done = sessions.run("--dry-run", "--expect-deny", entry, "--", "true")
    assert done.returncode == 2
    assert "--expect-deny" in done.stderr
    assert "--deny-domain" not in done.stderr
