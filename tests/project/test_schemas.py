"""docs/schemas: made from the types, true of what is written, and refusing what is not."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path

import jsonschema
import msgspec
import pytest
import sealed_session as made
import vectors
from checkout import ROOT, TESTS
from schemas import DIRECTORY, FILES, validate, validate_directory, validator, values_of

from nono_trio.audit.recovery.ledger_repair import Repair
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.cli.main import exit_code
from nono_trio.core.log.attestation import decode_bundle

GOLDEN = TESTS / "data" / "golden"


def test_the_files_are_those_of_the_types():
    files = runpy.run_path(str(ROOT / "scripts" / "schema_files.py"))["files"]()
    told = {path.name: path.read_text() for path in DIRECTORY.glob("*.json")}
    assert told == files, "run: scripts/schemas"


def test_the_page_names_each_of_them():
    page = (DIRECTORY / "README.md").read_text()
    for path in DIRECTORY.glob("*.json"):
        assert f"({path.name})" in page
        validator(*path.name.removesuffix(".json").split(".v"))


@pytest.mark.parametrize("name", vectors.LOGS)
def test_logs_of_upstream_nono_fit(name):
    for record in vectors.records(name):
        validate("audit-events", record)
        validate("event", json.loads(record["event_json"]))
    if (vectors.VECTORS / name / "session.json").exists():
        validate("session", vectors.load(name, "session.json"))


REFUSED = {"seq_bool", "event_json_null", "bad_type", "upper_hex"}
# A schema sees one line, and no hash is computed for it: `audit verify` is for the rest.
ONE_LINE_IS_GOOD = {
    "chain_flip", "drop_middle", "event_changed_only", "swap", "unknown_envelope_field",
    "unknown_event_field", "blank_lines",
}  # fmt: skip


def test_bad_lines_of_the_vectors_are_refused():
    bad = set()
    for directory in (vectors.VECTORS / "negative").iterdir():
        if directory.name in REFUSED | ONE_LINE_IS_GOOD:
            try:
                validate_directory(directory)
            except jsonschema.ValidationError:
                bad.add(directory.name)
    assert bad == REFUSED


def test_a_session_with_each_kind_of_file_fits(tmp_path, capsys):
    directory = made.build(tmp_path / "audit", flows=[made.flow(3)], name="a")
    assert validate_directory(directory) == FILES.keys() - {
        "processes.ndjson", "audit-attestation.bundle", *(n for n in FILES if "ledger" in n)
    }  # fmt: skip
    assert validate_directory(tmp_path / "audit") == {"ledger.ndjson"}
    crashed = made.unsealed(tmp_path / "audit", "c0c0c0c0c0c0c0c0")
    validate_directory(crashed)
    for session in (directory, crashed, tmp_path / "none"):
        validate("verify", msgspec.to_builtins(verify(session)))
    validate("recover", msgspec.to_builtins(recover(crashed)))
    validate("ledger-repair", msgspec.to_builtins(Repair(path="ledger.ndjson")))
    state = ["--audit-dir", str(tmp_path)]
    for name, command in {
        "list": ["list"],
        "tail": ["tail", directory.name, "-n", "1"],
        "search": ["search", "-n", "1"],
        "hosts": ["hosts"],
        "show": ["show", directory.name],
        "error": ["show", "nothing"],
    }.items():
        exit_code(["audit", *command, "--json", *state])
        validate(name, json.loads(capsys.readouterr().out))
    made.build(tmp_path / "audit", "a0a0a0a0a0a0a0a0")
    page, archive = tmp_path / "page.html", tmp_path / "a.tar"
    for name, command, file in (
        ("report", ["report", "--all", "-o", str(page)], page),
        ("export-session", ["export-session", "a0a0a0a0a0a0a0a0", "-o", str(archive)], archive),
        ("import", ["import", str(archive)], None),
    ):
        assert exit_code(["audit", *command, "--json", *state]) == 0
        answer = json.loads(capsys.readouterr().out)
        validate(name, answer)
        if file is not None:
            assert (answer["file"], answer["bytes"]) == (str(file), file.stat().st_size)
    for name, command in {
        "cleanup": ["audit", "cleanup", "--keep", "1", "--dry-run"],
        "ship": ["audit", "ship", "--all", "--to", str(tmp_path / "sent.ndjson")],
        "keys-generate": ["keys", "generate"],
        "keys-list": ["keys", "list"],
        "keys-export": ["keys", "export", "--vkey", "ledger"],
        "ps": ["ps", "--all"],
        "inspect": ["inspect", directory.name],
    }.items():
        assert exit_code([*command, "--json", *state]) == 0, name
        validate(name, json.loads(capsys.readouterr().out))
    assert exit_code(["audit", "export", directory.name, *state]) == 0
    for line in capsys.readouterr().out.splitlines():
        validate("export", json.loads(line))


def golden_files():
    return sorted(path for path in GOLDEN.rglob("*") if path.name in FILES)


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.name)
def test_what_was_written_before_fits_for_ever(path):
    """A session that an earlier nono-trio wrote: it must fit the schema of its version, always."""
    values = values_of(path)
    assert values
    for value in values:
        validate(FILES[path.name], value)


def test_the_statement_in_the_bundle_fits():
    [path] = GOLDEN.rglob("*.bundle")
    payload, _signature = decode_bundle(path.read_bytes())
    validate("statement", json.loads(payload))
    for fault, changed in faults_of(json.loads(payload)):
        assert not validator("statement").is_valid(changed), fault


def faults_of(value):
    """Copies of an object, each with one fault: a key less, a wrong type, a damaged hash."""
    for key, old in value.items():
        yield f"{key} is missing", {name: one for name, one in value.items() if name != key}
        yield f"{key} is of another type", {**value, key: 0.5 if old != 0.5 else "x"}
        if isinstance(old, str) and len(old) == 64:
            yield f"{key} is no hash", {**value, key: old[:-1] + "G"}


# Keys that a writer leaves out where there is nothing to say.
MAY_MISS = {
    "checkpoints.ndjson": {"flows_sha256", "note", "line_signature"},
    "flows.ndjson": {"name", "status", "first_byte_ms"},
    "ledger-checkpoints.ndjson": {"line_signature"},
    "session.json": {"nono_trio"},
}


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.name)
def test_one_fault_is_refused(path):
    value = copy.deepcopy(values_of(path)[-1])
    for fault, changed in faults_of(value):
        fits = validator(FILES[path.name]).is_valid(changed)
        key, _, what = fault.partition(" is ")
        assert fits == (what == "missing" and key in MAY_MISS.get(path.name, ())), fault
    validate(FILES[path.name], {**value, "a_key_of_a_later_version": [1]})


def test_the_golden_session_is_a_whole_one():
    [session] = [path.parent for path in GOLDEN.rglob("session.json")]
    assert verify(session).verdict == "verified"
    assert {path.name for path in golden_files()} >= FILES.keys() - {"ledger-cosignatures.ndjson"}
    assert Path(session).name == json.loads((session / "session.json").read_bytes())["session_id"]
