from __future__ import annotations

import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sealed_session as made
from harness import RUN_SECONDS
from installation import install
from vectors import VECTORS

from nono_trio.audit import ledger, store
from nono_trio.audit.read import status, summary
from nono_trio.cli import main as command_line
from nono_trio.core.log.session_json import AttemptTotals

NONO_TRIO = [sys.executable, "-c", "from nono_trio.cli.main import main; main()"]
HEADER = ["ID", "NAME", "STARTED", "STATUS", "EVENTS", "DENY", "FAIL", "ALLOW", "COMMAND"]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))


def tamper(directory):
    log = directory / store.LOG
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"good.test", 1))
    return directory


# -- verify ---------------------------------------------------------------------------------------


def test_a_verified_session(run, root):
    made.build(root)
    code, out, err = run("audit", "verify", "latest")
    assert (code, err) == (0, "")
    assert out.startswith("verified    0123456789abcdef  7 records, sealed\n")
    assert "checkpoints  3, the last at sequence 6, all match" in out
    assert "ledger       its line matches, the chain holds" in out


def test_a_tampered_session_says_where_and_what(run, root):
    tamper(made.build(root))
    code, out, _ = run("audit", "verify", "0123")
    assert code == 1
    assert out.startswith("tampered    0123456789abcdef  good up to sequence 3\n")
    assert "event JSON mismatch" in out
    assert "line 5, byte 2564, sequence 4" in out
    assert "evil.test" in out
    assert "good.test" in out


def test_a_prefix_of_two_sessions_is_not_the_one_that_the_ledger_knows(run, root):
    made.build(root, "aab")
    made.unsealed(root, "aac")
    code, out, _ = run("audit", "verify", "aa")
    assert (code, "missing" in out) == (2, False)
    assert "note         give more of the id: aab, aac\n" in out


def test_crashed_and_open_sessions_have_a_hint(run, root):
    made.unsealed(root, "crashed1")
    made.running(root, "running1")
    code, out, err = run("audit", "verify", "crashed1")
    assert code == 6
    assert "good up to sequence 4" in out
    assert err == "hint: `nono-trio audit recover crashed1` seals it\n"
    code, out, err = run("audit", "verify", "running1")
    assert code == 5
    assert out.startswith("open        running1  5 records so far, running\n")
    assert err.startswith("hint: verify it again when it has ended")


@pytest.mark.parametrize("quick", [[], ["--quick"]])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (made.build, 0),
        (lambda root: tamper(made.build(root)), 1),
        (made.running, 5),
        (made.unsealed, 6),
        (lambda root: root / "missing", 2),
    ],
)
def test_the_exit_code_is_the_same_with_json(run, root, make, code, quick):
    target = make(root)
    assert run("audit", "verify", target, *quick)[0] == code
    json_code, out, err = run("audit", "verify", target, "--json", *quick)
    assert (json_code, err) == (code, "")
    answer = json.loads(out)
    assert answer["schema"] == 1
    assert (answer["verdict"] == "verified") == (code == 0 and not quick)


@pytest.mark.parametrize("target", ["x" * 300, "x" * 300 + "/y", "./nowhere", "", "\x1b"])
def test_a_target_that_can_not_even_be_a_file_is_an_answer(run, target):
    code, out, _ = run("audit", "verify", "--json", target)
    assert (code, json.loads(out)["verdict"]) == (2, "unreadable")
    assert run("audit", "show", target)[0] == 2


def test_a_state_directory_that_is_none_is_an_answer(run, root):
    root.write_text("not a directory")
    code, out, _ = run("audit", "verify", "--json", "--all")
    assert (code, json.loads(out)["verdict"]) == (2, "unreadable")
    assert run("audit", "list")[0] == 2


@pytest.mark.parametrize(
    ("put", "verdict", "expected"),
    [
        (Path.mkdir, "tampered", 1),
        (lambda path: path.symlink_to("x" * 300), "unreadable", 2),  # the system refuses the name
    ],
)
def test_a_ledger_that_can_not_be_read_is_an_answer_for_each(run, root, put, verdict, expected):
    made.build(root, "one")
    made.build(root, "two")
    (root / "ledger.ndjson").unlink()
    put(root / "ledger.ndjson")
    code, out, _ = run("audit", "verify", "--json", "--all")
    assert code == expected
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["verdict"] for answer in answers] == ["unreadable", "unreadable", verdict]
    assert answers[-1]["path"] == str(root / "ledger.ndjson")  # an answer of its own


def test_names_that_mean_nothing_are_answers_too(run, root):
    made.build(root, "aa1")
    made.build(root, "aa2")
    code, out, _ = run("audit", "verify", "--json", "aa1", "zz", "aa", "aa2")
    assert code == 2
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["verdict"] for answer in answers] == [
        "verified",
        "unreadable",
        "unreadable",
        "verified",
    ]
    assert "begins with 'aa'" in answers[2]["notes"][0]


@pytest.mark.parametrize("kind", ["checkout", "wheel"])
def test_jobs_of_a_real_command_end(sessions, tmp_path, kind):
    """In a checkout no worker found the package, and each was replaced without end."""
    for _ in range(2):
        assert sessions.run("--isolation", "none", "--", "true").returncode == 0
    command = install(tmp_path / "own", tmp_path / "beside" if kind == "checkout" else None)
    done = subprocess.run(
        [command, "audit", "verify", "--all", "--jobs", "2"], env=sessions.environment,
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 sessions: 2 verified" in done.stderr


@pytest.mark.parametrize("jobs", [1, 3])
def test_all_sessions_and_the_worst_of_them(run, root, jobs):
    made.build(root, "good")
    made.unsealed(root, "crashed")
    tamper(made.build(root, "bad"))
    code, out, err = run("audit", "verify", "--all", "--jobs", jobs)
    assert code == 1
    assert "3 sessions: " in err
    assert "1 verified" in err
    code, out, _ = run("audit", "verify", "--all", "--json", "--jobs", jobs)
    assert code == 1
    verdicts = {a["session_id"]: a["verdict"] for a in map(json.loads, out.splitlines())}
    assert verdicts == {"good": "verified", "crashed": "crashed", "bad": "tampered"}


def test_all_of_no_sessions_is_no_error(run):
    code, out, err = run("audit", "verify", "--all")
    assert (code, out) == (0, "")
    assert "no session in" in err


def test_sessions_here_and_elsewhere_in_one_go(run, root):
    made.build(root, "one")
    made.build(root, "two")
    code, out, _ = run("audit", "verify", "--upstream", VECTORS / "n5", "one", "two")
    assert code == 0
    assert out.count("verified  ") == 3


def test_hostile_text_in_a_log_does_not_reach_the_terminal(run, root):
    hostile = "\x1b]0;x\x07\u202e\n"
    payloads = [made.started(), made.network(target=hostile, reason=hostile), made.ended()]
    directory = made.build(root, payloads=payloads, name=hostile)
    log = directory / store.LOG
    for arguments in (["show", "latest"], ["tail", "latest"], ["list"], ["verify", "latest"]):
        code, out, err = run("audit", *arguments)
        assert code == 0
        assert all(line.isprintable() for line in (out + err).split("\n"))
    log.write_bytes(log.read_bytes() + hostile.encode() * 30)
    code, out, _ = run("audit", "verify", "latest")
    assert code == 1
    assert all(line.isprintable() for line in out.split("\n"))


# -- list -----------------------------------------------------------------------------------------


def test_the_columns_of_the_list(run, root):
    totals = AttemptTotals(allowed=7, denied=9, failed=2)
    made.build(root, "sealed1", name="build", attempts=totals)
    made.unsealed(root, "crashed1")
    made.running(root, "running1")
    (root / "nothing1").mkdir()
    code, out, _ = run("audit", "list")
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == HEADER
    cells = {row.split()[0]: row for row in rows}
    assert " build " in cells["sealed1"]
    assert cells["sealed1"].split()[4:8] == ["7", "9", "2", "7"]
    assert " crashed " in cells["crashed1"]
    assert cells["crashed1"].split()[4:8] == ["5", "1", "0", "1"]
    assert " running " in cells["running1"]
    assert "(no session.json)" in cells["nothing1"]
    assert "agent --token '[REDACTED]'" in cells["sealed1"]


def test_the_list_as_json(run, root):
    made.build(root, "sealed1", name="build")
    made.unsealed(root, "crashed1")
    code, out, _ = run("audit", "list", "--json")
    listed = json.loads(out)
    assert (code, listed["schema"]) == (0, 1)
    by_id = {session["session_id"]: session for session in listed["sessions"]}
    assert by_id["sealed1"]["status"] == "sealed"
    assert by_id["sealed1"]["name"] == "build"
    assert by_id["sealed1"]["exit_code"] == 0
    assert by_id["crashed1"]["ended"] is None


def listed(run, *filters):
    code, out, _ = run("audit", "list", "--json", *filters)
    assert code == 0
    return {session["session_id"] for session in json.loads(out)["sessions"]}


def test_a_list_reads_the_ledger_once(run, root, monkeypatch):
    made.build(root)
    read, verify = [], ledger.verify
    monkeypatch.setattr(ledger, "verify", lambda *place: read.append(place) or verify(*place))
    assert len(listed(run)) == 1
    assert len(read) == 1


def test_filters_of_the_list(run, root, monkeypatch):
    now = datetime.now(UTC)

    def payloads(moment):
        monkeypatch.setattr(made, "STARTED", moment.isoformat())
        return (made.started(), *made.SMALL[1:])

    made.build(root, "now", payloads(now))
    made.unsealed(root, "old", payloads(now - timedelta(days=40))[:-1])
    tamper(made.build(root, "bad", payloads(now - timedelta(days=20))))
    assert listed(run) == {"now", "old", "bad"}
    assert listed(run, "--today") == {"now"}
    assert listed(run, "--since", f"{now - timedelta(days=30):%Y-%m-%d}") == {"now", "bad"}
    assert listed(run, "--until", f"{now - timedelta(days=30):%Y-%m-%d}") == {"old"}
    assert listed(run, "--since", "30d") == {"now", "bad"}
    assert listed(run, "--until", "720h") == {"old"}
    assert listed(run, "--status", "crashed") == {"old"}
    assert listed(run, "--status", "sealed") == {"now", "bad"}
    assert "bad" in listed(run, "--status", "tampered")
    assert listed(run, "--status", "running") == set()
    assert listed(run, "--recent", "2") == {"now", "bad"}
    assert listed(run, "--command", "AGENT") == {"now", "old", "bad"}
    assert listed(run, "--command", "nothing") == set()
    assert listed(run, "--path", "/home/a") == {"now", "old", "bad"}
    assert listed(run, "--path", "/home/a/project/src") == {"now", "old", "bad"}
    assert listed(run, "--path", "/home/a/proj") == set()


def test_an_empty_list_says_so(run, root):
    assert run("audit", "list")[2].startswith("nono-trio: no session in ")
    made.build(root)
    for words in ("--command zzz", "--since 2099-01-01", "--until 1999-01-01"):
        assert run("audit", "list", *words.split()) == (0, "", "nono-trio: no session fits\n")


def test_counts_of_a_log_are_folded_like_those_of_a_run(root):
    directory = made.unsealed(root)
    assert status.scan(directory / store.LOG) == status.Counts(5, 1, 1)
    assert status.scan(directory / "nothing") == status.Counts(0, 0, 0)


def test_the_newest_twenty_are_listed(run, root):
    for number in range(22):
        made.build(root, f"session{number}")
    _, out, err = run("audit", "list")
    assert len(out.splitlines()) == 1 + 20
    assert "these are the newest 20; `nono-trio audit list --all` has all" in err
    assert json.loads(run("audit", "list", "--json")[1])["more"] is True
    code, out, err = run("audit", "list", "--all")
    assert (code, len(out.splitlines()), err) == (0, 1 + 22, "")
    assert json.loads(run("audit", "list", "--json", "--all")[1])["more"] is False
    assert len(run("audit", "list", "--recent", "21")[1].splitlines()) == 1 + 21


# -- show -----------------------------------------------------------------------------------------


def test_a_session_is_shown(run, root):
    payloads = [
        *made.SMALL[:2],
        *(made.network(n, "allow", "example.com") for n in range(30)),
        made.network(50, "deny", "evil.test"),
        made.ended(3),
    ]
    made.build(
        root, "abc", payloads, flows=[made.flow(2, 1500, 2_500_000), made.flow(3)], name="build"
    )
    code, out, err = run("audit", "show", "build")
    assert (code, err) == (0, "")
    assert "abc  (name build)" in out
    assert "sealed, exit code 3" in out
    assert "agent --token '[REDACTED]'" in out
    assert "ran 5.0 s" in out
    assert "namespace" in out
    assert "landlock V6" in out
    assert "linux, Landlock V6 (in the log)" in out
    assert "1 denied, 0 failed, 30 allowed" in out
    assert "1.6 kB up, 2.5 MB down in 2 connections" in out
    assert "... 11 decisions between" in out
    deny, allow = (line.split() for line in out.splitlines() if line.startswith(("deny", "allow")))
    assert deny == ["deny", "evil.test:443", "1", "-", "-"]
    assert allow == ["allow", "example.com:443", "30", "1.6", "kB", "2.5", "MB", "192.0.2.1"]


def test_what_a_host_was_denied_is_one_line(run, root):
    denied = [
        made.network(49, port=53, method="DNS"),
        made.network(50),
        made.network(51, port=80),
        made.network(52, target="x.tunnel.test", port=53, method="DNS"),
    ]
    made.build(root, "abc", [*made.SMALL[:2], *denied, made.ended(0)])
    _, out, _ = run("audit", "show", "abc")
    assert "3 denied, 0 failed, 0 allowed" in out
    rows = [" ".join(line.split()) for line in out.splitlines() if line.startswith("deny")]
    assert rows == ["deny evil.test:80,443 2 - -", "deny x.tunnel.test, only looked up 1 - -"]
    _, out, _ = run("audit", "show", "--json", "abc")
    shown = {(one["target"], one["port"], one["look_up"]) for one in json.loads(out)["hosts"]}
    assert ("evil.test", 53, True) in shown
    assert ("evil.test", 443, False) in shown


def test_a_shown_session_as_json(run, root):
    made.build(root, flows=[made.flow(2)])
    code, out, _ = run("audit", "show", "--json")
    shown = json.loads(out)
    assert (code, shown["schema"], shown["status"]) == (0, 1, "sealed")
    assert (shown["allowed"], shown["denied"], shown["connections"]) == (1, 1, 1)
    assert shown["session"]["nono_trio"]["isolation"] == "namespace"
    assert shown["sandbox_runtime"]["landlock_abi"] == "V6"
    assert {host["target"]: host["bytes_down"] for host in shown["hosts"]} == {
        "evil.test": 0,
        "example.com": 2000,
    }
    assert [record["sequence"] for record in shown["timeline"]["first"]] == [3, 4]
    assert shown["timeline"]["between"] == 0


@pytest.mark.parametrize("make", [made.unsealed, made.running])
def test_an_unsealed_session_is_shown_too(run, root, make):
    directory = make(root)
    with (directory / store.LOG).open("ab") as log:
        log.write(b'{"half')
    code, out, _ = run("audit", "show", "latest")
    assert code == 0
    assert "1 denied, 0 failed, 1 allowed" in out


def test_an_end_that_nothing_binds_is_not_told(run, root):
    """Whoever may write the log of a crashed session could give it any exit code."""
    directory = made.unsealed(root)
    line = (directory / store.LOG).read_bytes().splitlines()[-1]
    record = json.loads(line) | {"event": {"type": "session_ended", "ended": "x", "exit_code": 0}}
    record |= {"sequence": record["sequence"] + 1, "event_json": json.dumps(record["event"])}
    with (directory / store.LOG).open("ab") as log:
        log.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
    _, out, _ = run("audit", "show", "latest")
    assert "status" in out
    assert "exit code" not in out


def test_an_upstream_session_is_shown(run):
    code, out, _ = run("audit", "show", VECTORS / "n8")
    assert code == 0
    assert "20260702-114852-1004" in out or "n8" in out


def test_hosts_beyond_the_limit_are_counted_together(root, monkeypatch):
    monkeypatch.setattr(summary, "MAX_HOSTS", 3)
    payloads = [made.started(), *(made.network(n, target=f"h{n}.test") for n in range(9))]
    story = summary.read_story(made.unsealed(root, payloads=payloads, counts=()), 2)
    counts = {host.target: host.requests for host in story.hosts_by_weight()}
    assert counts == {"(other hosts)": 6, "h0.test": 1, "h1.test": 1, "h2.test": 1}
    assert (len(story.first), story.between, len(story.last)) == (2, 5, 2)


def test_show_of_a_log_file_says_what_it_wants(run, root):
    directory = made.build(root)
    code, _, err = run("audit", "show", directory / store.LOG)
    assert code == 2
    assert "expected a session, got the file" in err


def test_json_goes_out_line_by_line(root, monkeypatch):
    """A pipe's reader must not wait for a buffer to fill."""
    made.build(root)
    flushed = []

    class Pipe(io.StringIO):
        def flush(self):
            flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", Pipe())
    assert command_line.exit_code(["audit", "tail", "--json"]) == 0
    assert flushed[0].count("\n") == 1


def test_a_ledger_that_stops_every_seal_is_mended(run, root):
    made.build(root, "one")
    with (root / "ledger.ndjson").open("ab") as file:
        file.write(b"garbage\n")
    assert run("audit", "ledger", "verify")[0] == 1
    made.unsealed(root, "two")
    code, out, err = run("audit", "recover", "two")
    assert code == 4
    assert f"nono-trio audit ledger repair --audit-dir {root.parent}`" in err
    code, out, err = run("audit", "ledger", "repair", "--json")
    assert (code, json.loads(out)["cut_lines"]) == (0, 1)
    assert (root / "ledger.torn").read_bytes() == b"garbage\n"
    assert run("audit", "recover", "two")[0] == 0
    assert run("audit", "ledger", "verify")[0] == 0
    code, out, err = run("audit", "ledger", "repair")
    assert code == 0
    assert "nothing to mend" in out + err
    assert run("audit", "verify", "--all")[0] == 0


# -- requests without the token -------------------------------------------------------------------

STRANGERS = (
    *made.SMALL[:-1],
    made.network(3, "deny", "", denial_category="authentication_failed", reason="no token"),
    made.network(4, "deny", "a.test", denial_category="authentication_failed", reason="no token"),
    made.ended(),
)


@pytest.mark.parametrize("make", [made.build, made.unsealed])
def test_a_request_without_the_token_is_no_denial(run, root, make):
    """Anybody on the machine may send one: it is in the timeline, and counted nowhere."""
    directory = make(root, payloads=STRANGERS)
    assert run("audit", "verify", directory.name)[0] in (0, 6)
    counted = [
        json.loads(run("audit", "list", "--json")[1])["sessions"][0],
        json.loads(run("audit", "show", "--json", directory.name)[1]),
    ]
    assert [(one["allowed"], one["denied"]) for one in counted] == [(1, 1), (1, 1)]
    assert {host["target"] for host in counted[1]["hosts"]} == {"example.com", "evil.test"}
    assert [one["target"] for one in json.loads(run("audit", "learn", "--json")[1])["denied"]] == [
        "evil.test"
    ]
    assert run("audit", "show")[1].count("no token") == 2
