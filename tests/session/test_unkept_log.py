"""`--no-audit`: all is recorded while the session runs, and the log is removed at its end."""

from __future__ import annotations

import json
import os
import signal
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

from harness import PYTHON_GRANTS, Sessions

from nono_trio.audit import ledger
from nono_trio.cli.unkept_log import end_of_log
from nono_trio.config.options import AuditOptions
from nono_trio.errors import AuditLost

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

WARNING = "nono-trio: warning: --no-audit: the log is removed at the end"
TRIES = "import socket; socket.create_connection(('192.0.2.7', 81), 60)"


def sessions_in(sessions: Sessions) -> list[str]:
    return [one.name for one in (sessions.state / "audit").iterdir() if one.is_dir()]


def has_gone(sessions: Sessions) -> bool:
    """Return whether the ledger alone knows of one session, and says that it was removed."""
    report = ledger.verify(sessions.state / "audit")
    verified = sessions.call("audit", "verify", "--all")
    assert verified.returncode == 0, verified.stdout
    return sessions_in(sessions) == [] and len(report.removed) == 1


def test_the_log_of_a_run_is_removed_and_no_line_names_it(sessions: Sessions) -> None:
    done = sessions.run(
        "--no-audit", "--isolation", "namespace", *PYTHON_GRANTS, "--",
        sys.executable, "-c", TRIES,
    )  # fmt: skip
    assert WARNING in done.stderr
    assert "nono-trio: 1 denied" in done.stderr
    assert "audit show" not in done.stderr
    assert has_gone(sessions)


def test_the_summary_has_the_verdict_on_the_log_that_was_there(sessions: Sessions) -> None:
    done = sessions.run("--no-audit", "--summary", "json", "--", "true")
    assert json.loads(done.stderr.splitlines()[-1])["verdict"] == "verified"
    assert has_gone(sessions)


def test_a_dry_run_warns_of_it_too(sessions: Sessions) -> None:
    shown = sessions.run("--no-audit", "--dry-run", "--", "true")
    assert WARNING in shown.stderr
    as_json = sessions.run("--no-audit", "--dry-run", "--json", "--", "true")
    assert (
        WARNING.removeprefix("nono-trio: warning: ") in json.loads(as_json.stdout)["warnings"][-1]
    )
    assert WARNING not in sessions.run("--dry-run", "--", "true").stderr


def test_a_run_that_ends_by_an_error_of_ours_leaves_no_log(sessions: Sessions) -> None:
    done = sessions.run("--no-audit", "--timeout", "0.2", "--", "sleep", "60")
    assert done.returncode == 124
    assert "its log" not in done.stderr
    assert has_gone(sessions)


def test_while_it_runs_the_log_is_there(sessions: Sessions) -> None:
    """As for every session, so `ps`, `stop` and `audit tail -f` find it."""
    with sessions.started("proxy", "--no-audit", stdout=-1) as proxy:
        ready = json.loads(proxy.stdout.readline())
        assert os.path.isdir(ready["session_dir"])
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(60) == 0
    assert has_gone(sessions)


def test_a_log_that_was_not_sealed_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove = end_of_log(AuditOptions(tmp_path, keeps_log=False))
    lost = SimpleNamespace(outcome=SimpleNamespace(error=AuditLost("the disk is gone")))
    assert not remove(lost)  # type: ignore[arg-type]
    unknown = SimpleNamespace(
        outcome=SimpleNamespace(error=None),
        record=SimpleNamespace(directory=tmp_path / "audit" / ("0" * 16), session_id="0" * 16),
    )
    assert not remove(unknown)  # type: ignore[arg-type]
    assert "warning: the log of --no-audit stays: " in capsys.readouterr().err
