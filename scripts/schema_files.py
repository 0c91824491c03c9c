#!/usr/bin/env python3
"""Write docs/schemas: a JSON Schema for each file of a session and each typed answer of --json.

.venv/bin/python scripts/schema_files.py

The schemas follow from the msgspec types alone. What a type does not say (a hash is 64 hex digits)
follows from the name of a field: the decoders must stay as lax as the formats ask.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nono_trio.audit.recovery.ledger_repair import Repair
from nono_trio.audit.recovery.recover import Recovery
from nono_trio.audit.verify.verdict import Verification
from nono_trio.cli import answers, process_answers
from nono_trio.cli.audit.cleanup_answer import Cleanup
from nono_trio.cli.audit.show_answer import ShowAnswer
from nono_trio.core.export.ndjson import ExportedLine
from nono_trio.core.log.attestation import AttestationBundle, Statement
from nono_trio.core.log.events import Flow, Payload
from nono_trio.core.log.ledger_anchor import LedgerAnchor
from nono_trio.core.log.ledger_checkpoint import LedgerCheckpoint
from nono_trio.core.log.ledger_cosignature import LedgerCosignature
from nono_trio.core.log.ledger_record import LedgerRecord
from nono_trio.core.log.policy_json import SessionPolicy
from nono_trio.core.log.processes import ProcessLine
from nono_trio.core.log.record import Record
from nono_trio.core.log.session_json import Checkpoint, SessionMetadata
from nono_trio.core.log.summary_json import SealSummary
from nono_trio.errors import JSON_SCHEMA

DIRECTORY = Path(__file__).resolve().parent.parent / "docs" / "schemas"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Artifact(NamedTuple):
    """One schema: its name, version and type, and what it is the schema of."""

    name: str
    version: int
    type: Any
    title: str

    @property
    def file(self):
        return f"{self.name}.v{self.version}.json"


ARTIFACTS = (
    Artifact("audit-events", 1, Record, "A line of audit-events.ndjson (scheme alpha)"),
    Artifact("event", 1, Payload, "The payload of a record: its event, and its event_json decoded"),
    Artifact("flows", 1, Flow, "A line of flows.ndjson"),
    Artifact("processes", 1, ProcessLine, "A line of processes.ndjson"),
    Artifact("checkpoints", 1, Checkpoint, "A line of checkpoints.ndjson"),
    Artifact("session", 1, SessionMetadata, "session.json"),
    Artifact("policy", 1, SessionPolicy, "policy.json"),
    Artifact("summary", 1, SealSummary, "summary.json"),
    Artifact("attestation", 1, AttestationBundle, "audit-attestation.bundle"),
    Artifact("statement", 1, Statement, "The payload in audit-attestation.bundle, decoded"),
    Artifact("ledger", 1, LedgerRecord, "A line of ledger.ndjson"),
    Artifact("ledger-checkpoints", 1, LedgerCheckpoint, "A line of ledger-checkpoints.ndjson"),
    Artifact("ledger-anchors", 1, LedgerAnchor, "A line of ledger-anchors.ndjson"),
    Artifact("ledger-cosignatures", 1, LedgerCosignature, "A line of ledger-cosignatures.ndjson"),
    Artifact("proxy-ready", JSON_SCHEMA, answers.ReadyLine, "The ready line of proxy"),
    Artifact("run-summary", JSON_SCHEMA, answers.SummaryAnswer, "run --summary json"),
    Artifact("error", JSON_SCHEMA, answers.ErrorAnswer, "--json of each command that fails"),
    Artifact("verify", JSON_SCHEMA, Verification, "A line of audit verify --json"),
    Artifact("recover", JSON_SCHEMA, Recovery, "A line of audit recover --json"),
    Artifact("ledger-repair", JSON_SCHEMA, Repair, "audit ledger repair --json"),
    Artifact("list", JSON_SCHEMA, answers.ListAnswer, "audit list --json"),
    Artifact("tail", JSON_SCHEMA, answers.TailAnswer, "A line of audit tail --json"),
    Artifact("search", JSON_SCHEMA, answers.SearchAnswer, "A line of audit search --json"),
    Artifact("export", JSON_SCHEMA, ExportedLine, "A line of audit export --format ndjson"),
    Artifact("hosts", JSON_SCHEMA, answers.HostsAnswer, "audit hosts --json"),
    Artifact("export-session", JSON_SCHEMA, answers.ExportedSession, "audit export-session --json"),
    Artifact("import", JSON_SCHEMA, answers.ImportedSession, "audit import --json"),
    Artifact("report", JSON_SCHEMA, answers.ReportAnswer, "audit report --json"),
    Artifact("show", JSON_SCHEMA, ShowAnswer, "audit show --json"),
    Artifact("ship", JSON_SCHEMA, answers.ShipAnswer, "audit ship --json"),
    Artifact("cleanup", JSON_SCHEMA, Cleanup, "audit cleanup --json"),
    Artifact("keys-generate", JSON_SCHEMA, answers.GeneratedKey, "keys generate --json"),
    Artifact("keys-list", JSON_SCHEMA, answers.KeysAnswer, "keys list --json"),
    Artifact("keys-export", JSON_SCHEMA, answers.ExportedKey, "keys export --json"),
    Artifact("ps", JSON_SCHEMA, process_answers.ProcessesAnswer, "ps --json"),
    Artifact("stop", JSON_SCHEMA, process_answers.StopAnswer, "stop --json"),
    Artifact("inspect", JSON_SCHEMA, process_answers.InspectAnswer, "inspect --json"),
    Artifact("doctor", JSON_SCHEMA, process_answers.DoctorAnswer, "doctor --json"),
)

HASH = {"pattern": "^[0-9a-f]{64}$"}
TIME = {
    "format": "date-time",
    "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})$",
}
BASE64 = {"contentEncoding": "base64"}
COUNT = {"minimum": 0}
PORT = {"minimum": 0, "maximum": 65535}
# By the names of fields, for texts and for whole numbers; a field may also be null.
TEXTS = {
    **dict.fromkeys(
        (
            "prev_chain", "leaf_hash", "chain_hash", "chain_head", "merkle_root", "sha256",
            "exe_sha256", "flows_sha256", "package_sha256", "session_digest", "key_id",
        ),
        HASH,
    ),
    **dict.fromkeys(("started", "ended", "time", "completed_at", "first", "last"), TIME),
    "timestamp": {"format": "date-time"},  # nono's own vectors have other texts there
    **dict.fromkeys(("line_signature", "public_key", "sig", "payload", "answer"), BASE64),
    "segment_xxh3": {"pattern": "^[0-9a-f]{16}$"},
    "event_json": {"contentMediaType": "application/json"},
}  # fmt: skip
NUMBERS = {
    **dict.fromkeys(
        ("sequence", "event_count", "offset", "bytes", "bytes_up", "bytes_down", "cut_bytes"), COUNT
    ),
    "port": PORT,
}


def classes(found, types=None):
    """Every struct and data class that a type is made of, by name."""
    types = {} if types is None else types
    cls = getattr(found, "cls", None)
    if cls is not None and cls.__name__ in types:
        return types
    if cls is not None:
        types[cls.__name__] = cls
    for value in msgspec.structs.asdict(found).values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, msgspec.Struct):
                classes(one, types)
    return types


def always_written(cls):
    """The keys of every object: the encoders leave out only what is UNSET."""
    tag = cls.__struct_config__.tag_field
    fields = msgspec.structs.fields(cls)
    keys = [field.encode_name for field in fields if field.default is not msgspec.UNSET]
    return keys if tag is None else [tag, *keys]


def tighten(name, schema):
    """Add what follows from the name of a field to its schema, or to its branches."""
    for branch in schema.get("anyOf", ()):
        tighten(name, branch)
    if name == "schema":
        schema.clear()
        schema["const"] = JSON_SCHEMA
    more = {"string": TEXTS, "integer": NUMBERS}.get(schema.get("type"), {}).get(name, {})
    schema.update(more)


def document(artifact):
    """The whole schema of one artifact."""
    template = "#/$defs/{name}"
    (root,), parts = msgspec.json.schema_components([artifact.type], ref_template=template)
    types = classes(msgspec.inspect.type_info(artifact.type))
    for name, part in parts.items():
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
        for field, schema in part.get("properties", {}).items():
            schema.pop("default", None)
            tighten(field, schema)
        if name in types and "properties" in part:
            part["required"] = always_written(types[name])
    return {
        "$schema": DIALECT,
        "$id": f"urn:nono-trio:schema:{artifact.name}:{artifact.version}",
        "title": artifact.title,
        **root,
        "$defs": dict(sorted(parts.items())),
    }


def files():
    """The names and texts of all files."""
    return {
        one.file: json.dumps(document(one), indent=2, ensure_ascii=False) + "\n"
        for one in ARTIFACTS
    }


def main():
    DIRECTORY.mkdir(exist_ok=True)
    written = files()
    for name, text in written.items():
        (DIRECTORY / name).write_text(text)
    for old in {path.name for path in DIRECTORY.glob("*.json")} - written.keys():
        print(f"no type has {old} any more: remove it if no file of it can exist", file=sys.stderr)


if __name__ == "__main__":
    main()
