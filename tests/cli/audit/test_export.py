import json
import re
import shlex

import pytest
from sealed_session import build, flow, log_of, running

from nono_trio.audit.export import formats
from nono_trio.cli.audit import export
from nono_trio.cli.main import exit_code


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))
    (tmp_path / "audit").mkdir(mode=0o700)
    return tmp_path / "audit"


def test_the_formats_of_the_help_are_those_there_are():
    assert export.FORMATS == formats.FORMATS


@pytest.mark.parametrize("form", formats.LINE_FORMATS)
def test_all_sessions_go_to_a_file_of_the_owner(state, tmp_path, form):
    build(state, "first", flows=[flow(3)])
    running(state, "second")
    output = tmp_path / "out.ndjson"
    assert exit_code(["audit", "export", "--all", "--format", form, "-o", str(output)]) == 0
    text = output.read_text()
    assert all(json.loads(line) for line in text.splitlines())
    for uid in ("first/0", "first/3/flow", "first/6", "second/4"):
        assert json.dumps(uid) in text
    assert output.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit", "out.ndjson"]


def test_a_tampered_session_is_written_up_to_the_fault_and_told(state, tmp_path, capsys):
    build(state, "good")
    log = log_of(build(state, "bad"))
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"ev1l.test"))
    output = tmp_path / "out.ndjson"
    assert exit_code(["audit", "export", "--all", "-o", str(output)]) == 1
    found = [json.loads(line)["id"] for line in output.read_text().splitlines()]
    assert {"good/6", "bad/3"} <= {*found}
    assert "bad/4" not in found
    assert re.search("error: TAMPERED.*\nhint: keep its files", capsys.readouterr().err)
    assert exit_code(["audit", "export", "bad", "-o", str(output)]) == 1
    assert "hint: " in capsys.readouterr().err


def test_the_hint_about_a_tampered_session_elsewhere_can_be_pasted(state, tmp_path, capsys):
    session = build(tmp_path / "an other" / "audit", "bad")
    log = log_of(session)
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"ev1l.test"))
    assert exit_code(["audit", "export", str(session), "-o", str(tmp_path / "out")]) == 1
    hint = re.search("`nono-trio ([^`]*)`", capsys.readouterr().err)
    assert exit_code(shlex.split(hint[1])) == 1
    assert "leaf hash mismatch" in capsys.readouterr().out


def test_an_envelope_needs_its_enrolment_and_a_sealed_session(state, tmp_path, capsys):
    build(state, "first")
    running(state, "second")
    command = ["audit", "export", "--format", "nono-ingest"]
    assert exit_code([*command, "first"]) == 2
    assert "--tenant" in capsys.readouterr().err
    enrolled = [*command, "--tenant", "t", "--shipper", "s"]
    assert exit_code([*enrolled, "second"]) == 2
    assert "not sealed" in capsys.readouterr().err
    output = tmp_path / "out"
    assert exit_code([*enrolled, "--all", "-o", str(output)]) == 2
    assert json.loads(output.read_text())["session_id"] == "first"


def test_no_envelope_is_made_of_a_session_that_was_tampered_with(state, capsys):
    log = log_of(build(state, "bad"))
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"ev1l.test"))
    enrolled = ["--format", "nono-ingest", "--tenant", "t", "--shipper", "s"]
    assert exit_code(["audit", "export", "bad", *enrolled]) == 1
    out, err = capsys.readouterr()
    assert (out, "error: TAMPERED: " in err) == ("", True)


def test_a_log_that_is_no_text_leaves_no_half_of_an_envelope(state, capsysbinary):
    log = log_of(build(state, "bad"))
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"ev\xffl.test"))
    build(state, "good")
    enrolled = ["--format", "nono-ingest", "--tenant", "t", "--shipper", "s"]
    assert exit_code(["audit", "export", "--all", *enrolled]) == 1
    out, err = capsysbinary.readouterr()
    assert [json.loads(line)["session_id"] for line in out.splitlines()] == ["good"]
    assert b"is not UTF-8" in err


def test_a_fault_of_the_first_line_is_called_so(state, capsys):
    log = log_of(build(state, "first"))
    log.write_bytes(log.read_bytes().replace(b"agent", b"other", 1))
    assert exit_code(["audit", "export", "first"]) == 1
    assert "its first line: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["first", "--all"], ["first", "--ocsf-integrity"], ["first", "--format", "x"]]
)
def test_wrong_flags_are_refused(state, arguments, capsys):
    build(state, "first")
    assert exit_code(["audit", "export", *arguments]) == 2
    assert "nono-trio: error: " in capsys.readouterr().err
