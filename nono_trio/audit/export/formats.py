"""The formats by name: a batch of lines as the bytes of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from nono_trio.core.export import ndjson, otlp
from nono_trio.core.export.ocsf import mapping as ocsf

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.export.exported import Exported, SessionFacts

# Those whose lines can be sent one by one; `nono-ingest` is one envelope a session.
LineFormat: TypeAlias = Literal["ndjson", "ocsf", "otlp"]
INGEST: Final = "nono-ingest"
LINE_FORMATS: Final = get_args(LineFormat)
FORMATS: Final = (*LINE_FORMATS, INGEST)


def encode(
    lines: Sequence[Exported],
    facts: SessionFacts,
    form: LineFormat,
    *,
    integrity: bool = False,
) -> bytes:
    """Return lines of one session in a format; `integrity` is for `ocsf`."""
    if form == "otlp":
        return otlp.encode([otlp.record_of(line, facts) for line in lines], facts)
    if form == "ocsf":
        return b"".join(ocsf.encode(line, facts, integrity=integrity) for line in lines)
    return b"".join(ndjson.encode(line, facts) for line in lines)


def log_records(
    lines: Sequence[Exported],
    facts: SessionFacts,
    form: LineFormat,
    *,
    integrity: bool = False,
) -> list[otlp.LogRecord]:
    """Return lines as log records for an OTLP endpoint; the body is the text of another format."""
    records = [otlp.record_of(line, facts) for line in lines]
    if form == "otlp":
        return records
    bodies = [encode([line], facts, form, integrity=integrity).decode() for line in lines]
    return [
        otlp.with_body(record, text)
        for record, body in zip(records, bodies, strict=True)
        for text in body.splitlines()
    ]
