"""Test vectors that upstream nono made (see data/vectors/README.md), as plain objects."""

from __future__ import annotations

import json

from checkout import TESTS

VECTORS = TESTS / "data" / "vectors"
LOGS = ("n1", "n2", "n3", "n5", "n8", "rust_all_types")


def load(*parts: str):
    return json.loads(VECTORS.joinpath(*parts).read_bytes())


def log_lines(name: str) -> list[bytes]:
    return (VECTORS / name / "audit-events.ndjson").read_bytes().splitlines(keepends=True)


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in log_lines(name)]


def leaves(name: str) -> list[bytes]:
    return [bytes.fromhex(record["leaf_hash"]) for record in records(name)]
