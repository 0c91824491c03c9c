from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import LOGS, load, log_lines, records

from nono_trio.core.log import record


@pytest.mark.parametrize("log", LOGS)
def test_every_line_of_upstream_is_rebuilt_byte_for_byte(log):
    prev = None
    for number, (line, fields) in enumerate(zip(log_lines(log), records(log), strict=True)):
        built, leaf, chain = record.encode_record(number, prev, fields["event_json"].encode())
        assert built == line
        assert (leaf.hex(), chain.hex()) == (fields["leaf_hash"], fields["chain_hash"])
        prev = chain
    assert prev.hex() == load(log, "integrity.json")["chain_head"]


def test_the_hashes_are_their_definition():
    leaf = hashlib.sha256(b"nono.audit.event.alpha\n{}").digest()
    assert record.leaf_hash(b"{}") == leaf
    first = hashlib.sha256(b"nono.audit.chain.alpha\n" + bytes(32) + leaf).digest()
    assert record.chain_hash(None, leaf) == first
    second = hashlib.sha256(b"nono.audit.chain.alpha\n" + first + leaf).digest()
    assert record.chain_hash(first, leaf) == second


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_in_a_payload_stays_one_line_of_json(text):
    event_json = json.dumps({"t": text}, ensure_ascii=False).encode()
    line, _, _ = record.encode_record(0, None, event_json)
    assert line.index(b"\n") == len(line) - 1
    fields = json.loads(line)
    assert fields["event_json"].encode() == event_json
    assert fields["event"] == {"t": text}


@given(
    st.integers(0, 2**40),
    st.none() | st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4),
)
def test_records_of_a_batch_are_those_of_one_after_another(first, head, texts):
    payloads = [json.dumps({"t": text}, ensure_ascii=False).encode() for text in texts]
    prev, lines, leaves = head, [], []
    for number, payload in enumerate(payloads, first):
        line, leaf, prev = record.encode_record(number, prev, payload)
        lines.append(line)
        leaves.append(leaf)
    assert record.encode_records(first, head, payloads) == (b"".join(lines), leaves, prev)


def test_lines_that_are_written_at_once_are_those_of_one_after_another():
    payloads = [json.dumps({"t": "x" * number + '"\u2028'}).encode() for number in range(4)]
    prev, lines = b"\1" * 32, []
    for number, payload in enumerate(payloads, 98):
        line, _, prev = record.encode_record(number, prev, payload)
        lines.append(line)
    leaves = record.leaf_hashes(payloads)
    chains = record.chain_hashes(b"\1" * 32, leaves)
    assert (leaves[1], chains[-1]) == (record.leaf_hash(payloads[1]), prev)
    pieces = []
    for payload in payloads:
        string = record.encode_string(payload)
        pieces += [record.STRING_KEY, string, record.EVENT_KEY, payload, record.LINE_END]
    assert record.encode_lines(98, chains, leaves, pieces) == b"".join(lines)
