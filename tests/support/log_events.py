"""Events for a log that a test writes."""

from __future__ import annotations

from nono_trio.core.log.events import Flow, NetworkEvent, SessionEnded


def denied(target: str) -> NetworkEvent:
    return NetworkEvent(
        timestamp_unix_ms=1_790_000_000_000,
        mode="connect",
        decision="deny",
        target=target,
        port=443,
    )


ENDED = SessionEnded(ended="2026-07-02T11:48:53Z", exit_code=0)


def flow(sequence: int) -> Flow:
    return Flow(
        sequence=sequence, target="a.test", port=443, opened_unix_ms=1, duration_ms=2,
        bytes_up=3, bytes_down=4, closed_by="client",
    )  # fmt: skip
