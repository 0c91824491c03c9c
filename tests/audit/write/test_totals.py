"""Counts of a live session: those of its records one after the other, whenever they are counted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from nono_trio.audit.write import totals
from nono_trio.audit.write.totals import MOST_KEPT, Totals
from nono_trio.core.log.events import Network, NetworkEvent, Payload
from nono_trio.core.log.file_events import denied_file, more_denied_files
from nono_trio.core.log.notices import Tally
from nono_trio.core.policy.attempts import AttemptTally

REASONS = [
    None, "--observe", "a.test:443 is not on the allowlist",
    "a.test:443 is not on the allowlist; 2 more since the last record",
    "a.test:443 is on the deny list", "a.test resolved to 10.0.0.1, a private address",
    "the TLS hello asks for b.test, but the connection is to a.test",
    "a direct connection, past the proxy", "3 more refused connections",
    "the proxy has as many connections as it can hold", "2 events lost: queue full",
]  # fmt: skip
FIELDS = {
    "mode": ["connect", "connect_intercept", "reverse"],
    "decision": ["allow", "deny", "approve_granted", "approve_denied"],
    "auth_outcome": [UNSET, "succeeded", "failed"],
    "denial_category": [
        UNSET, "authentication_failed", "host_denied", "upstream_connect_failed",
    ],
    "target": ["a.test", "b.test", "127.0.0.1", "nono-trio:audit", "nono-trio:direct"],
    "port": [None, 443, 80],
    "method": [None, "CONNECT", "GET", "DNS"],
    "path": [None, "/"],
    "reason": REASONS,
    # No count depends on these.
    "timestamp_unix_ms": [1, 2, 3],
    "status": [None, 200],
    "route_id": [UNSET, "route"],
    "upstream": [UNSET, "upstream"],
    "auth_mechanism": [UNSET, "proxy_authorization"],
    "managed_credential_active": [UNSET, True],
    "endpoint_policy_action": [UNSET, "deny"],
    "credential_capture_argv": [UNSET, ["a"]],
}  # fmt: skip
changes = st.one_of([
    st.tuples(st.just(name), st.sampled_from(values)) for name, values in FIELDS.items()
])  # fmt: skip
FILES = [
    denied_file("/srv", "Read", process=1, number=1, session_id="5e55", unix_ns=10**18),
    more_denied_files(7, "5e55", 10**18),
]


@st.composite
def logs(draw: st.DrawFn) -> list[Payload]:
    """Records of which many differ in one field only."""
    fields = {name: draw(st.sampled_from(values)) for name, values in FIELDS.items()}
    log: list[Payload] = []
    for change in draw(st.lists(st.none() | changes, max_size=20)):
        changed = fields | dict([] if change is None else [change])
        if draw(st.integers(0, 3)) == 0:
            fields = changed
        log.append(Network(event=NetworkEvent(**changed)))
        if draw(st.integers(0, 9)) == 0:
            log.append(draw(st.sampled_from(FILES)))
    return log


@settings(max_examples=300)
@given(logs(), st.integers(1, 20), st.integers(1, 8), st.integers(1, 8))
def test_late_counts_are_those_of_one_record_after_the_other(
    log: list[Payload], at_once: int, batch: int, most_events: int
) -> None:
    tally, attempts = Tally(), AttemptTally()
    tally.add_all(log)
    attempts.add_all(log)
    counted = Totals()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(totals, "MOST_KEPT", at_once)
        patch.setattr(totals, "MAX_NETWORK_EVENTS", most_events)
        for begin in range(0, len(log), batch):
            counted.add(log[begin : begin + batch])
        assert (counted.allowed, counted.denied) == (tally.allowed, tally.denied)
        assert counted.attempts == attempts
        assert [*counted.attempts.denied_hosts] == [*attempts.denied_hosts]
        counted.add(log[:1])
        counted.keep_events(log)
        network = [one.event for one in (*log, *log[:1], *log) if isinstance(one, Network)]
        assert counted.network_events == network[:most_events]


def test_no_more_than_a_few_records_are_kept() -> None:
    counted, added = Totals(), 0
    record = Network(event=NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision="allow", target="a.test", port=443
    ))  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        sizes: list[int] = []
        patch.setattr(Tally, "add", lambda _tally, _payload, times=1: sizes.append(times))
        for _ in range(3 * MOST_KEPT):
            counted.add([record])
            added += 1
    assert sizes == [MOST_KEPT] * 3
