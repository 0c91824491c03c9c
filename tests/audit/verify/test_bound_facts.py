"""The facts in `list`, `ps`, `inspect` and `show` are bound, or the session is called tampered."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
import sealed_session as made
from sealed_session import change_session

from nono_trio.audit import ledger, store
from nono_trio.audit.read.status import status
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify import bound_facts
from nono_trio.cli import main as command_line
from nono_trio.core.log.policy_json import (
    NetworkPolicy,
    PassedVariables,
    SourcedEntry,
    UsedProfile,
    decode_policy,
    encode_policy,
)
from nono_trio.core.log.record import encode_record

ID = "0123456789abcdef"
FORGED = "forged-by-hand"


@pytest.fixture
def printed(run):
    """Run a command line that must succeed; return its stdout."""

    def printed(*arguments):
        code, out, _ = run(*arguments)
        assert code == 0
        return out

    return printed


def change_facts(directory, **changes):
    fields = json.loads((directory / store.SESSION).read_bytes())
    change_session(directory, nono_trio=fields["nono_trio"] | changes)


def replace(directory, name, old, new):
    path = directory / name
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def another_end(directory):
    """The exit code in the log itself, every hash of the last record computed anew."""
    path = directory / store.LOG
    *_, before, _last = lines = path.read_bytes().splitlines(keepends=True)
    chain = bytes.fromhex(json.loads(before)["chain_hash"])
    payload = made.events.encode_payload(made.ended(77))
    lines[-1], _, head = encode_record(len(lines) - 1, chain, payload)
    path.write_bytes(b"".join(lines))
    fields = json.loads((directory / store.SESSION).read_bytes())
    integrity = fields["audit_integrity"] | {"chain_head": head.hex()}
    change_session(directory, exit_code=77, audit_integrity=integrity)


def without_its_line(directory):
    (directory.parent / ledger.LEDGER).unlink()


def opened_again(directory):
    """Cut to its first records and said to be open, which it was not since it was sealed."""
    log = directory / store.LOG
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:4]))
    opened = made.metadata(ID, made.SMALL, [], [], [], status="open")
    store.write_session_json(directory, opened)


FORGERIES = {
    "name": lambda one: change_facts(one, name=FORGED),
    "isolation": lambda one: change_facts(one, isolation=FORGED),
    "enforcement": lambda one: change_facts(one, enforcement=[FORGED]),
    "audit mode": lambda one: change_facts(one, audit_mode=FORGED),
    "denied": lambda one: change_facts(one, denied_total=77),
    "command": lambda one: change_session(one, command=[FORGED]),
    "granted": lambda one: change_session(one, tracked_paths=[f"/{FORGED}"]),
    "exit code": lambda one: change_session(one, exit_code=77),
    "started": lambda one: change_session(one, started="2001-01-01T00:00:00Z"),
    "policy": lambda one: replace(one, store.POLICY, b'"namespace"', f'"{FORGED}"'.encode()),
    "no policy": lambda one: (one / store.POLICY).unlink(),
    "summary": lambda one: replace(one, store.SUMMARY, b'"denied_total":1', b'"denied_total":77'),
    "no summary": lambda one: (one / store.SUMMARY).unlink(),
    "end": another_end,
    "flows": lambda one: replace(one, store.FLOWS, b'"bytes_up":100', b'"bytes_up":777'),
    "no line": without_its_line,
    "reopened": opened_again,
}
FORGERIES["decisions"] = lambda one: replace(
    one, store.LOG, b'"decision":"deny"', b'"decision":"allow"'
)
# A list does not read these, and tells nothing from them.
ONLY_SHOWN = {"flows", "decisions"}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_forged_fact_is_told(printed, root, forgery):
    directory = made.build(root, flows=[made.flow(3)], name="build")
    assert json.loads(printed("audit", "list", "--json"))["sessions"][0]["status"] == "sealed"
    FORGERIES[forgery](directory)
    for command in (("audit", "show", ID), ("audit", "list"), ("ps", "--all"), ("inspect", ID)):
        out = printed(*command)
        if command[:2] == ("audit", "show") or forgery not in ONLY_SHOWN:
            assert "tampered" in out, command
        expected, told = "expected ", [line for line in out.splitlines() if "fault" not in line]
        assert FORGED not in "\n".join(told), (command, expected)
        assert " 77 " not in out.replace("exit_code 77", "")
        assert "2001" not in "\n".join(told)
    shown = json.loads(printed("audit", "show", "--json", ID))
    assert (shown["status"], shown["fault"] is None) == ("tampered", False)
    assert FORGED not in json.dumps(shown["session"])
    assert FORGED not in json.dumps(shown["policy"])


@pytest.mark.parametrize("alive", [False, True])
def test_facts_of_a_session_that_is_not_sealed(root, alive):
    directory = (made.running if alive else made.unsealed)(root, name="build")
    found = bound_facts.look(directory)
    assert (status(found), found.name) == ("running" if alive else "crashed", "build")
    change_facts(directory, isolation=FORGED)
    found = bound_facts.look(directory)
    assert status(found) == "tampered"
    assert found.summary.nono_trio.isolation == "namespace"
    change_facts(directory, isolation="namespace", supervisor_pid=1)
    assert status(bound_facts.look(directory)) == "tampered"
    made.let_go()


def test_it_is_no_proof_of_what_is_between(root):
    """Bounded: the records between are not read, which is why it can be asked of hundreds."""
    directory = made.build(root)
    replace(directory, store.LOG, b"evil.test", b"good.test")
    assert status(bound_facts.look(directory)) == "sealed"


def test_another_session_in_its_place_is_told(root):
    directory = made.build(root, "other")
    shutil.copytree(directory, root / ID)
    assert status(bound_facts.look(root / ID)) == "tampered"


def test_a_recovered_session_is_bound(root):
    directory = made.unsealed(root)
    recover(directory)
    found = bound_facts.look(directory, files=True)
    assert (status(found), found.totals.recovered) == ("sealed", True)


@pytest.mark.parametrize("command", [("audit", "show", ID), ("inspect", ID)])
def test_what_is_not_bound_yet_is_said(printed, root, command):
    made.unsealed(root)
    out = printed(*command)
    decided = [line for line in out.splitlines() if "1 denied, 0 failed, 1 allowed" in line]
    assert len(decided) == 1
    assert decided[0].endswith("(not bound yet)")
    if command[0] == "audit":
        (moved,) = [line for line in out.splitlines() if line.startswith("  bytes")]
        assert moved.endswith("(not bound yet)")
    assert json.loads(printed(*command, "--json"))["counts_bound"] is False
    shutil.rmtree(root)
    made.build(root)
    assert "not bound yet" not in printed(*command)


def test_a_list_says_that_counts_are_not_bound_yet(printed, root, capsys):
    made.build(root)
    printed("audit", "list")
    made.unsealed(root, "crashed1")
    capsys.readouterr()
    assert command_line.exit_code(["audit", "list"]) == 0
    assert "not sealed are not bound yet" in capsys.readouterr().err
    listed = json.loads(printed("audit", "list", "--json"))["sessions"]
    assert {one["session_id"]: one["counts_bound"] for one in listed} == {
        ID: True,
        "crashed1": False,
    }


def test_a_policy_without_its_record_is_not_bound_yet(printed, root):
    directory = made.unsealed(root, payloads=(), counts=())
    out = printed("audit", "show", ID)
    assert "policy       not bound yet" in out
    assert "namespace" not in out
    listed = json.loads(printed("audit", "list", "--json"))["sessions"]
    assert [one["status"] for one in listed] == ["crashed"]
    assert listed[0]["command"] is None
    assert directory.name in printed("audit", "list")


def test_the_policy_is_shown_with_the_place_of_each_rule(printed, root, monkeypatch):
    many = [SourcedEntry(entry=f"h{n}.test", source="group many") for n in range(40)]
    plain = made.policy

    def rich(session_id, **facts):
        policy = plain(session_id, **facts)
        return msgspec.structs.replace(
            policy,
            network=NetworkPolicy(
                allow=[SourcedEntry(entry="api.example.com", source="--allow-domain"), *many],
                deny=[SourcedEntry(entry="evil.test", source="ci.toml:3 network.deny_domain")],
                upstream_proxy=SourcedEntry(entry="http://proxy.example.com:3128", source="env"),
            ),
            variables=PassedVariables(passed=["PATH"], held_back=["SECRET_TOKEN"]),
            origin=msgspec.structs.replace(
                policy.origin, profiles=[UsedProfile(source="ci.toml", sha256="ab" * 32)]
            ),
        )

    monkeypatch.setattr(made, "policy", rich)
    directory = made.build(root)
    out = printed("audit", "show", ID)
    for line in (
        "  allow        api.example.com  (--allow-domain)",
        "  allow        ... and 29 more (all with --json)",
        "  deny         evil.test  (ci.toml:3 network.deny_domain)",
        "  upstream     http://proxy.example.com:3128  (env)",
        "  granted      /home/a/project, readwrite  (--allow)",
        "  passed       PATH",
        "  held back    SECRET_TOKEN",
        "  profiles     ci.toml (sha256 abababababababab)",
    ):
        assert line in out.splitlines()
    shown = json.loads(printed("audit", "show", "--json", ID))
    assert len(shown["policy"]["network"]["allow"]) == 41
    policy = decode_policy((directory / store.POLICY).read_bytes())
    assert encode_policy(policy) == (directory / store.POLICY).read_bytes()


def test_a_real_session_is_told_from_what_is_bound(sessions):
    assert (
        sessions.run("--name", "web", "--allow-domain", "a.example.com", "--", "true").returncode
        == 0
    )
    found = bound_facts.look(sessions.only, files=True)
    assert (found.fault, status(found), found.name) == (None, "sealed", "web")
    shown = sessions.call("audit", "show", "latest")
    assert "a.example.com  (--allow-domain" in shown.stdout


WHILE_IT_RUNS = (store.LOG, store.POLICY, store.SESSION)
AT_THE_END = (store.SUMMARY, ledger.LEDGER)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        *((made.build, name) for name in (*WHILE_IT_RUNS, *AT_THE_END)),
        *((made.unsealed, name) for name in WHILE_IT_RUNS),
    ],
)
def test_no_flipped_byte_changes_what_is_told(root, make, name):
    """Every fifth byte: a changed fact is never shown without a warning."""
    directory = make(root, name="build")
    path = root / name if name == ledger.LEDGER else directory / name
    before = bound_facts.look(directory)
    assert before.fault is None
    whole = path.read_bytes()
    for position in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[position] ^= (1, 0x20, 0x80)[position % 3]
        made.overwrite(path, changed)
        found = bound_facts.look(directory)
        if found.fault is None:
            less = msgspec.structs.replace(  # a torn policy record: only the command is bound
                before.summary, nono_trio=msgspec.UNSET, tracked_paths=[]
            )
            assert found.summary in (before.summary, None, less), position
            assert found.policy in (before.policy, None), position
            assert (found.totals, found.sealed) in [
                (before.totals, before.sealed), (None, False),
            ], position  # fmt: skip
