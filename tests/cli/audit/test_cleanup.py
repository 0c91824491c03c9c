"""The command line of `audit cleanup`: its limits, its lines, and its exit codes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest
import sealed_session as made
from checkout import ROOT
from schemas import validate

from nono_trio.audit import ledger, store

SESSIONS = [f"{number:016x}" for number in range(3)]
USER = 65_534  # any uid except root's; it needs no account
CLEAN_SECONDS = 60


@pytest.fixture
def built(root):
    return [made.build(root, name) for name in SESSIONS]


def test_it_needs_a_limit_that_it_understands(run, built):
    code, out, err = run("audit", "cleanup")
    assert (code, out) == (2, "")
    assert "expected --keep, --older-than or --max-total-size" in err
    code, _, err = run("audit", "cleanup", "--older-than", "soon")
    assert (code, "--older-than: expected" in err, "hint: " in err) == (2, True, True)
    code, _, err = run("audit", "cleanup", "--max-total-size", "10 elephants")
    assert (code, "--max-total-size: expected a size" in err, "hint: " in err) == (2, True, True)
    assert run("audit", "cleanup", "--keep", "-1")[0] == 2
    assert all(one.exists() for one in built)


def test_a_dry_run_shows_what_a_run_removes(run, built):
    code, out, err = run("audit", "cleanup", "--keep", "1", "--dry-run")
    assert (code, [line.split()[:2] for line in out.splitlines()]) == (
        0, [["would-remove", name] for name in SESSIONS[:2]],
    )  # fmt: skip
    assert "2 sessions would be removed" in err
    assert "1 session kept" in err
    assert all(one.exists() for one in built)
    code, out, err = run("audit", "cleanup", "--older-than", "2026-07-03", "--keep", "5")
    assert (code, [line.split()[:2] for line in out.splitlines()]) == (
        0, [["removed", name] for name in SESSIONS],
    )  # fmt: skip
    assert "3 sessions removed" in err
    assert run("audit", "verify", "--all")[0] == 0


def test_json_says_what_became_of_each(run, root, built):
    made.change_session(built[0], command=["\x1b[2J"])
    code, out, err = run("audit", "cleanup", "--keep", "1", "--json")
    answer = json.loads(out)
    assert (code, err, answer["schema"], answer["dry_run"], answer["kept"]) == (1, "", 1, False, 1)
    told = [(one["session_id"], one["outcome"], one["limit"]) for one in answer["sessions"]]
    assert told == [(SESSIONS[0], "tampered", "keep"), (SESSIONS[1], "removed", "keep")]
    code, out, _ = run("audit", "cleanup", "--keep", "2", "--json")
    assert (code, json.loads(out)["sessions"]) == (0, [])
    assert "\x1b" not in run("audit", "cleanup", "--keep", "0")[1]


def test_json_names_what_is_gone_if_the_ledger_can_not_be_written_any_more(root, built):
    """Before, there was only the error, as if nothing had been removed."""
    room = (root / ledger.LEDGER).stat().st_size + 600  # for one line, not for two
    done = subprocess.run(
        [
            sys.executable, "-m", "nono_trio", "audit", "cleanup", "--keep=0", "--json",
            "--audit-dir", root.parent,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=CLEAN_SECONDS, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )  # fmt: skip
    answer = json.loads(done.stdout)
    validate("cleanup", answer)
    assert [(one["session_id"], one["outcome"]) for one in answer["sessions"]] == [
        (SESSIONS[0], "removed")
    ]
    assert (done.returncode, answer["error"]["exit_code"]) == (4, 4)
    assert "error: the ledger" in done.stderr
    assert [one.exists() for one in built] == [False, True, True]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave what a user can't remove")
def test_what_can_not_be_removed_is_told_each_time(run, open_place):
    """Before, both commands ended with 0 and said nothing."""
    stuck = open_place / "audit" / f"{store.REMOVING}{SESSIONS[0]}"
    stuck.mkdir(parents=True)
    (stuck / "file").touch()
    os.utime(stuck, (0, 0))
    os.chown(stuck.parent, USER, USER)
    state = ("--audit-dir", open_place)
    for command in (["cleanup", "--keep=1"], ["recover", "--all"]):
        code, _, err = run("audit", *command, *state)
        assert (code, f"{stuck} can't be removed" in err, "hint: look at it: ls -la" in err) == (
            1, True, True,
        )  # fmt: skip
    code, out, err = run("audit", "cleanup", "--keep=1", "--json", *state)
    answer = json.loads(out)
    validate("cleanup", answer)
    assert (code, err, [str(stuck) in one for one in answer["unfinished"]]) == (1, "", [True])
