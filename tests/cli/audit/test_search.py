"""`audit search` and `audit hosts`: what is printed, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import sealed_session as made
from harness import NONO_TRIO, RUN_SECONDS

from nono_trio.audit import store
from nono_trio.cli.pager import output_is_open
from nono_trio.cli.text import moment_text
from nono_trio.core.log.file_events import denied_file

HOSTILE = "\x1b]0;x\x07\u202e.test"


def columns(out):
    return [[part.strip() for part in line.split("  ") if part] for line in out.splitlines()]


def test_a_line_has_all_that_is_known(run, root):
    payloads = [
        made.started(),
        made.network(
            1, "allow", "a.test", port=80, method="GET", path="/x", mode="reverse", status=200
        ),
        made.network(2, "deny", "evil.test"),
        made.network(3, "deny", "only.test", port=53, method="DNS"),
        denied_file("/srv", "Write", process=7, number=1, session_id="s", unix_ns=10**18),
        made.ended(),
    ]
    directory = made.build(root, payloads=payloads)
    line = {"sequence": 3, "exe": "/usr/bin/python3.11", "argv": ["py", "/a/sync.py"]}
    (directory / store.PROCESSES).write_text(json.dumps({**line, "state": "found"}) + "\n")
    code, out, err = run("audit", "search")
    assert (code, err) == (0, "")
    session = "0123456789abcdef"
    assert [one[1:] for one in columns(out)] == [
        [session, "allow", "a.test:80", "GET /x", "status 200"],
        [session, "deny", "evil.test:443", "CONNECT", "by python3.11 sync.py",
         "host evil.test is not on the allowlist"],
        [session, "deny", "only.test:53", "look-up", "host only.test is not on the allowlist"],
        [session, "deny", "/srv", "create", "by pid 7", "not granted"],
    ]  # fmt: skip
    assert columns(out)[0][0] == moment_text(made.NOON_UNIX_MS + 1)


def test_json_has_one_object_a_line(run, root):
    made.build(root, name="build")
    code, out, err = run("audit", "search", "--host", "evil.test", "--json")
    assert (code, err) == (0, "")
    (found,) = map(json.loads, out.splitlines())
    assert found == {
        "schema": 1, "session_id": "0123456789abcdef", "session_name": "build",
        "session_status": "sealed", "sequence": 4, "time": "2026-07-02T12:03:04.125Z",
        "kind": "network", "decision": "deny", "host": "evil.test", "port": 443,
        "method": "CONNECT", "path": None, "real_path": None, "access": None, "status": None,
        "rule": None, "category": "host_denied",
        "reason": "host evil.test is not on the allowlist", "pid": None, "programs": [],
    }  # fmt: skip


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nothing_found_is_an_answer(run, root, form):
    code, out, err = run("audit", "search", *form)
    assert (code, out) == (0, "")
    assert err == f"nono-trio: no session in {root}\n"
    made.build(root)
    code, out, err = run("audit", "search", "--host", "nothing.test", *form)
    assert (code, out, err) == (0, "", "nono-trio: nothing found in 1 session\n")
    code, out, err = run("audit", "search", "--until", "2020-01-01", *form)
    assert (code, out) == (0, "")
    assert err == "nono-trio: nothing found in 0 sessions; 1 more of another time\n"


def test_a_session_that_can_not_be_read_is_no_answer(run, root):
    made.build(root, "good")
    log = made.log_of(made.build(root, "bad"))
    log.unlink()
    log.mkdir()
    for name in ("search", "hosts"):
        code, out, err = run("audit", name, "--host", "evil.test")
        assert code == 2
        assert "evil.test" in out
        assert "nono-trio: warning: 1 session (bad) can't be read" in err
        assert "nono-trio: 1 session (bad) is tampered" in err


def test_times_count_back_from_now(run, root, monkeypatch):
    for days in (1, 20):
        moment = datetime.now(UTC) - timedelta(days=days)
        monkeypatch.setattr(made, "NOON_UNIX_MS", int(moment.timestamp() * 1000))
        monkeypatch.setattr(made, "STARTED", moment.isoformat())
        monkeypatch.setattr(made, "ENDED", moment.isoformat())
        made.build(root, f"s{days}", payloads=[made.started(), made.network(1), made.ended()])
    assert [one[1] for one in columns(run("audit", "search", "--since", "7d")[1])] == ["s1"]
    assert [one[1] for one in columns(run("audit", "search", "--until", "7d")[1])] == ["s20"]
    assert [one[1] for one in columns(run("audit", "search")[1])] == ["s1", "s20"]
    assert [one[1] for one in columns(run("audit", "search", "-n", "1")[1])] == ["s1"]
    assert len(run("audit", "hosts", "--since", "7d")[1].splitlines()) == 2


def test_one_session_by_name(run, root):
    made.build(root, "one", name="build")
    made.build(root, "two")
    code, out, _ = run("audit", "search", "--session", "build")
    assert {one[1] for one in columns(out)} == {"one"}
    assert json.loads(run("audit", "hosts", "--session", "build", "--json")[1])["sessions"] == 1
    code, _, err = run("audit", "search", "--session", "none")
    assert code == 2
    assert "expected a session" in err


def test_hostile_text_does_not_reach_the_terminal(run, root):
    payloads = [
        made.started(),
        made.network(target=HOSTILE, reason=HOSTILE, path=HOSTILE),
        made.ended(),
    ]
    directory = made.build(root, payloads=payloads, name=HOSTILE)
    line = {"sequence": 2, "exe": f"/bin/{HOSTILE}", "state": "found"}
    (directory / store.PROCESSES).write_text(json.dumps(line) + "\n")
    for name in ("search", "hosts"):
        for form in ([], ["--json"]):
            code, out, err = run("audit", name, *form)
            assert code == 0
            assert all(one.isprintable() for one in (out + err).split("\n"))
            assert r"\x1b]0;x" in out or r"\u001b]0;x" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--host", ""], "--host: expected a host, got an empty text"),
        (["--host", "https://a.test/"], "--host 'https://a.test/': expected a host, got a URL"),
        (["--since", "soon"], "--since: expected a day, a time or an age, got 'soon'"),
        (["-n", "0"], "expected a whole number from 1 to 10000"),
        (["--decision", "maybe"], "--decision: expected allow, deny, approve_requested"),
    ],
)
def test_what_can_not_be_meant(run, given, message):
    code, out, err = run("audit", "search", *given)
    assert (code, out) == (2, "")
    assert message in err
    assert "hint: " in err


def test_a_tilde_is_the_home(run, root, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = denied_file("/home/me/.ssh", "Read", process=7, number=1, session_id="s", unix_ns=1)
    made.build(root, payloads=[made.started(), seen, made.ended()])
    assert "/home/me/.ssh" in run("audit", "search", "--path", "~/.ssh/*")[1]


def test_a_reader_that_has_enough_ends_it(root, tmp_path):
    many = [made.network(one, path="x" * 100) for one in range(2000)]
    made.build(root, payloads=[made.started(), *many, made.ended()])
    done = subprocess.run(
        ["sh", "-c", f"{{ {NONO_TRIO} audit search; echo code $? >&2; }} | head -2"],
        env={**os.environ, "NONO_TRIO_STATE_DIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == "code 141\n"


@pytest.mark.parametrize("command", ["search", "hosts"])
def test_a_reader_that_has_gone_is_not_told_that_there_is_nothing(root, tmp_path, command):
    made.build(root)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [NONO_TRIO, "audit", command], stdout=write, stderr=subprocess.PIPE, timeout=RUN_SECONDS,
        env={**os.environ, "NONO_TRIO_STATE_DIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_pipe_is_seen_between_sessions(monkeypatch):
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert output_is_open()
        os.close(read)
        assert not output_is_open()


# -- hosts ----------------------------------------------------------------------------------------


def test_the_table_of_hosts(run, root):
    made.build(root, flows=[made.flow(3, 1500, 2_500_000)])
    made.build(root, "two")
    code, out, err = run("audit", "hosts")
    assert (code, err) == (0, "")
    header, *rows = [" ".join(line.split()) for line in out.splitlines()]
    assert header == "HOST ALLOW DENY FAIL UP DOWN SESSIONS FIRST LAST PROGRAMS"
    assert rows[0].startswith("example.com:443 2 0 0 1.5 kB 2.5 MB 2 ")
    assert rows[1].startswith("evil.test:443 0 2 0 - - 2 ")
    assert len(rows) == 2
    _, *denied = run("audit", "hosts", "--decision", "deny")[1].splitlines()
    assert [line.split()[0] for line in denied] == ["evil.test:443"]


def test_hosts_as_json(run, root):
    assert json.loads(run("audit", "hosts", "--json")[1])["hosts"] == []
    made.build(root, flows=[made.flow(3)])
    code, out, _ = run("audit", "hosts", "--json", "--host", "example.*")
    assert (code, json.loads(out)) == (0, {
        "schema": 1, "sessions": 1, "other_hosts": None,
        "hosts": [{
            "host": "example.com", "port": 443, "first": "2026-07-02T12:03:04.124Z",
            "last": "2026-07-02T12:03:04.124Z", "allowed": 1, "denied": 0, "failed": 0,
            "connections": 1, "bytes_up": 100, "bytes_down": 2000, "sessions": 1, "programs": [],
            "more_programs": False,
        }],
    })  # fmt: skip


def test_hosts_without_a_row_are_told(run, root, monkeypatch):
    monkeypatch.setattr("nono_trio.audit.search.hosts_seen.MAX_NEW_HOSTS", 1)
    made.build(root)
    out = run("audit", "hosts")[1]
    assert out.splitlines()[-1].startswith("(other hosts)")
    assert json.loads(run("audit", "hosts", "--json")[1])["other_hosts"]["denied"] == 1
