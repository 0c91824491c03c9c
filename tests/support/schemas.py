"""The published schemas (docs/schemas), and the files that each of them is for."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING

import jsonschema
from checkout import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DIRECTORY = ROOT / "docs" / "schemas"
# Of a session's directory, and of the ledger's; `.ndjson` files have one object a line.
FILES = {
    "audit-events.ndjson": "audit-events",
    "flows.ndjson": "flows",
    "processes.ndjson": "processes",
    "checkpoints.ndjson": "checkpoints",
    "session.json": "session",
    "policy.json": "policy",
    "summary.json": "summary",
    "audit-attestation.bundle": "attestation",
    "ledger.ndjson": "ledger",
    "ledger-checkpoints.ndjson": "ledger-checkpoints",
    "ledger-anchors.ndjson": "ledger-anchors",
    "ledger-cosignatures.ndjson": "ledger-cosignatures",
}


@functools.cache
def validator(name: str, version: int = 1) -> jsonschema.Draft202012Validator:
    schema = json.loads((DIRECTORY / f"{name}.v{version}.json").read_bytes())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validate(name: str, value: object) -> None:
    """Raise jsonschema.ValidationError unless `value` is what the schema describes."""
    validator(name).validate(value)


def values_of(path: Path) -> list[object]:
    data = path.read_bytes()
    if path.suffix != ".ndjson":
        return [json.loads(data)]
    return [json.loads(line) for line in data.split(b"\n") if line.strip()]


def validate_directory(directory: Path) -> set[str]:
    """Validate every file of a session, or of an audit directory; return the names of its files."""
    found = {path.name for path in directory.iterdir() if path.is_file()}
    unknown = {name for name in found - FILES.keys() if not name.endswith(".lock")}
    assert not unknown, f"no schema for {unknown}"
    for name in found & FILES.keys():
        for value in values_of(directory / name):
            validate(FILES[name], value)
    return found & FILES.keys()
