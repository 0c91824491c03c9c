"""--anchor-command: who gets the ledger's signed checkpoint, and what its failure does."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys

import pytest
from harness import guarded

from nono_trio.audit.ledger import LEDGER_ANCHORS, LEDGER_CHECKPOINTS
from nono_trio.audit.write import ledger_anchor

ISOLATIONS = ["namespace", pytest.param("landlock", marks=guarded)]
SIGNED = ["--audit-sign-key", "default"]


@pytest.fixture
def keyed(sessions):
    assert sessions.call("keys", "generate").returncode == 0
    return sessions


def program(directory, body):
    script = directory / "anchor"
    script.write_text(f"#!{sys.executable} -B\nimport os, sys, time\n{body}\n")
    os.chmod(script, stat.S_IRWXU)
    return str(script)


def rows(sessions, name):
    return [*map(json.loads, (sessions.state / "audit" / name).read_bytes().splitlines())]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_command_gets_the_note_and_its_answer_is_kept(keyed, isolation, tmp_path):
    kept = tmp_path / "kept.note"
    body = f"open({str(kept)!r}, 'wb').write(sys.stdin.buffer.read()); print('receipt')"
    anchor = ["--anchor-command", program(tmp_path, body)]
    done = keyed.run(*SIGNED, *anchor, "--isolation", isolation, "--", "true")
    assert (done.returncode, "anchor" in done.stderr) == (0, False), done.stderr
    (checkpoint,) = rows(keyed, LEDGER_CHECKPOINTS)
    assert kept.read_text() == checkpoint["note"]
    (row,) = rows(keyed, LEDGER_ANCHORS)
    assert (row["exit_code"], row["program"], row["event_count"]) == (0, "anchor", 1)
    assert base64.b64decode(row["answer"]) == b"receipt\n"
    done = keyed.call("audit", "consistency", str(kept), "ledger")
    assert done.returncode == 0, done.stderr


def test_a_failure_is_warned_and_the_next_session_anchors_the_same_lines(keyed, tmp_path):
    marker = tmp_path / "fail"
    marker.touch()
    kept = tmp_path / "kept.note"
    body = (
        f"if os.path.exists({str(marker)!r}): sys.exit(3)\n"
        f"open({str(kept)!r}, 'wb').write(sys.stdin.buffer.read())"
    )
    anchor = ["--anchor-command", program(tmp_path, body)]
    done = keyed.run(*SIGNED, *anchor, "--", "false")
    assert done.returncode == 1  # the command's own
    assert "warning: --anchor-command: anchor ended with exit code 3" in done.stderr
    marker.unlink()
    assert keyed.run(*SIGNED, *anchor, "--", "true").returncode == 0
    assert [row["exit_code"] for row in rows(keyed, LEDGER_ANCHORS)] == [3, 0]
    assert kept.read_text().split("\n")[1] == "2"


def test_a_command_that_hangs_is_ended(keyed, tmp_path, monkeypatch):
    from nono_trio.audit.ledger_heads import largest_head
    from nono_trio.audit.write.ledger_signer import NotPublished

    assert keyed.run(*SIGNED, "--", "true").returncode == 0
    root = keyed.state / "audit"
    key = base64.b64decode(rows(keyed, LEDGER_CHECKPOINTS)[0]["key"])
    head = largest_head(root / LEDGER_CHECKPOINTS, key)
    monkeypatch.setattr(ledger_anchor, "ANCHOR_SECONDS", 0.2)
    command = ledger_anchor.AnchorCommand(root, [program(tmp_path, "time.sleep(600)")], os.environ)
    with pytest.raises(NotPublished, match="did not end within"):
        command.publish(head)
    flood = [program(tmp_path, "os.write(1, b'x' * 40000)")]
    monkeypatch.setattr(ledger_anchor, "ANCHOR_SECONDS", 60)
    with pytest.raises(NotPublished, match="printed more than 32768 bytes"):
        ledger_anchor.AnchorCommand(root, flood, os.environ).publish(head)
    found = rows(keyed, LEDGER_ANCHORS)
    assert [row["exit_code"] for row in found] == [None, None]


def test_what_is_refused_before_the_start(keyed, tmp_path):
    work = keyed.home / "work"
    work.mkdir()
    writable = program(work, "")
    for options, text in (
        (["--anchor-command", "/bin/true"], "needs --audit-sign-key"),
        ([*SIGNED, "--anchor-command", "/nonexistent/x"], "there is no program"),
        ([*SIGNED, "--anchor-command", "'"], "expected a command line"),
        ([*SIGNED, "--allow", str(work), "--anchor-command", writable], "may change"),
        ([*SIGNED, "--allow", str(work), "--anchor-command", f"sh {writable}"], "may change"),
    ):
        done = keyed.run("--dry-run", *options, "--", "true")
        assert (done.returncode, text in done.stderr) == (2, True), done.stderr
    assert not (keyed.state / "audit").exists()
