"""The format `ndjson`: our own records as they are, flat, one object a line.

Rules of this file: a field never changes its meaning; a new one may come. `event` is the payload of
the log and `flow` a line of flows.ndjson, with the keys that these have there.
"""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.core.export.exported import (
    Exported,
    FaultLine,
    FlowLine,
    Kind,
    SessionFacts,
    event_id,
    kind_of,
    sequence_of,
    unix_ms_of,
)
from nono_trio.core.log.events import Flow, NetworkEvent  # noqa: TC001  (msgspec resolves them)
from nono_trio.core.log.processes import ProcessLine  # noqa: TC001  (msgspec resolves it)
from nono_trio.errors import JSON_SCHEMA


class ExportedLine(msgspec.Struct, kw_only=True, frozen=True):
    """One line. `id` is the same whenever the line is exported.

    Of a record there are `event`, `programs`, `leaf_hash` and `chain_hash`; of the end of a
    connection there are `flow` and, if it is known, `decision`. Of a fault that a shipper has met
    (`tampered`, `removed`) there is `message`.
    """

    schema: int = JSON_SCHEMA
    id: str
    session_id: str
    sequence: int
    kind: Kind
    time_unix_ms: int
    event: msgspec.Raw | UnsetType = UNSET
    programs: list[ProcessLine] | UnsetType = UNSET
    leaf_hash: str | UnsetType = UNSET
    chain_hash: str | UnsetType = UNSET
    flow: Flow | UnsetType = UNSET
    decision: NetworkEvent | UnsetType = UNSET
    message: str | UnsetType = UNSET


_encoder = msgspec.json.Encoder()


def encode(line: Exported, facts: SessionFacts) -> bytes:
    """Return one line with its newline."""
    return _encoder.encode(_exported(line, facts)) + b"\n"


def _exported(line: Exported, facts: SessionFacts) -> ExportedLine:
    make = partial(
        ExportedLine,
        id=event_id(facts.session_id, line),
        session_id=facts.session_id,
        sequence=sequence_of(line),
        kind=kind_of(line),
        time_unix_ms=unix_ms_of(line, facts),
    )
    if isinstance(line, FlowLine):
        return make(flow=line.flow, decision=UNSET if line.decision is None else line.decision)
    if isinstance(line, FaultLine):
        return make(message=line.message)
    return make(
        event=msgspec.Raw(line.event_json.encode()),
        programs=[*line.programs] or UNSET,
        leaf_hash=line.leaf_hash,
        chain_hash=line.chain_hash,
    )
