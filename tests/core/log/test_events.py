from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import LOGS, records

from nono_trio.core.log import events, nono_events

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
U64 = st.integers(0, 2**64 - 1)

NETWORK_EVENTS = st.builds(
    events.NetworkEvent,
    timestamp_unix_ms=U64,
    mode=st.sampled_from(["connect", "connect_intercept", "reverse", "external"]),
    decision=st.sampled_from(["allow", "deny", "approve_timeout"]),
    route_id=st.one_of(st.just(msgspec.UNSET), TEXT),
    managed_credential_active=st.one_of(st.just(msgspec.UNSET), st.booleans()),
    injection_mode=st.sampled_from([msgspec.UNSET, "o_auth2"]),
    denial_category=st.sampled_from([msgspec.UNSET, "host_denied", "unsupported_upgrade"]),
    credential_capture_argv=st.one_of(st.just(msgspec.UNSET), st.lists(TEXT)),
    credential_capture_exit_status=st.one_of(
        st.just(msgspec.UNSET), st.integers(-(2**31), 2**31 - 1)
    ),
    target=TEXT,
    port=st.one_of(st.none(), st.integers(0, 65535)),
    reason=st.one_of(st.none(), TEXT),
)
PAYLOADS = st.one_of(
    st.builds(events.Network, event=NETWORK_EVENTS),
    st.builds(
        events.SessionStarted,
        started=TEXT,
        command=st.lists(TEXT),
        redaction_policy=st.just(msgspec.UNSET),
    ),
    st.builds(events.SessionEnded, ended=TEXT, exit_code=st.integers(-(2**31), 2**31 - 1)),
)


@pytest.mark.parametrize("log", LOGS)
def test_every_payload_of_upstream_is_encoded_to_the_same_bytes(log):
    for record in records(log):
        written = record["event_json"].encode()
        assert events.encode_payload(events.decode_payload(written)) == written


def test_all_seven_payload_types_are_in_the_vectors():
    lines = records("rust_all_types") + records("n8")
    types = {type(events.decode_payload(line["event_json"].encode())) for line in lines}
    assert types == set(events.Payload.__args__)
    assert {nono_events.CapabilityDecision, nono_events.UrlOpen, nono_events.CommandPolicy} < types


@given(PAYLOADS)
def test_a_payload_survives_the_round_trip(payload):
    encoded = events.encode_payload(payload)
    assert events.decode_payload(encoded) == payload
    again = json.dumps(json.loads(encoded), ensure_ascii=False, separators=(",", ":"))
    assert again.encode().replace(b"\x7f", b"") == encoded.replace(b"\x7f", b"")


def test_a_network_event_writes_its_null_fields_and_leaves_out_the_unset_ones():
    event = events.NetworkEvent(
        timestamp_unix_ms=5, mode="connect", decision="deny", target="evil.test", port=443
    )
    assert events.encode_payload(events.Network(event=event)) == (
        b'{"type":"network","event":{"timestamp_unix_ms":5,"mode":"connect","decision":"deny",'
        b'"target":"evil.test","port":443,"method":null,"path":null,"status":null,"reason":null}}'
    )


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"nope"}',
        b'{"type":"session_ended","ended":"t","exit_code":true}',
        b'{"type":"session_ended","ended":"t","exit_code":1.0}',
        b'{"type":"session_ended","ended":"t","exit_code":2147483648}',
        b'{"type":"session_ended","ended":"t"}',
        b'{"type":"session_ended","ended":"t","exit_code":NaN}',
        b'{"type":"session_ended","ended":"\\ud800","exit_code":1}',
        b'{"type":"session_started","started":"t","command":"x"}',
        b"null",
        b"",
    ],
)
def test_what_serde_refuses_is_refused(payload):
    with pytest.raises(msgspec.DecodeError):
        events.decode_payload(payload)


def test_a_port_past_16_bits_is_refused():
    event = events.NetworkEvent(
        timestamp_unix_ms=5, mode="connect", decision="deny", target="x", port=65536
    )
    with pytest.raises(msgspec.ValidationError):
        events.decode_payload(events.encode_payload(events.Network(event=event)))


def test_a_flow_line_keeps_its_order():
    flow = events.Flow(
        sequence=3,
        target="example.com",
        port=443,
        address="192.0.2.1",
        opened_unix_ms=1,
        duration_ms=2,
        bytes_up=3,
        bytes_down=4,
        closed_by="client",
    )
    line = events.encode_flow(flow)
    assert line == (
        b'{"sequence":3,"target":"example.com","port":443,"address":"192.0.2.1",'
        b'"opened_unix_ms":1,"duration_ms":2,"bytes_up":3,"bytes_down":4,"closed_by":"client"}\n'
    )
    assert events.decode_flow(line) == flow
