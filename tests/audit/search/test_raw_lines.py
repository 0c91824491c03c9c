"""The search of raw bytes misses nothing that decoding every line would find."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.audit.read import records as reading
from nono_trio.audit.read.records import parse_record
from nono_trio.audit.search import query as asking
from nono_trio.audit.search.patterns import PathGlob, TextGlob, parse_host_glob
from nono_trio.audit.search.query import SearchQuery, searched_record
from nono_trio.audit.search.raw_lines import candidate_lines, candidate_lines_backwards
from nono_trio.errors import LogUnreadable

HOSTS = [
    "evil.test",
    "EVIL.test.",
    "api.evil.test",
    "k.test",
    "\u212a.test",
    "éa.test",
    "a\tb.test",
]
PATHS = ["/v1/a", "/v1/a?x=[REDACTED]", '/q"uo\\te', "/home/me/.ssh", "/home/me", "/\u00fc/a"]
LOOKED_UP = "looked up as "


def network(draw_host, decision, path, upstream, reason):
    event = {
        "timestamp_unix_ms": 1000, "mode": "connect", "decision": decision, "target": draw_host,
        "port": 443, "path": path, "method": "GET", "status": None, "reason": reason,
    }  # fmt: skip
    if upstream is not None:
        event["upstream"] = upstream
    return {"type": "network", "event": event}


def file(path, answer, backend, reason):
    denied = {"Denied": {"reason": reason}}
    request = {
        "capability_type": "capability", "request_id": "1", "path": path, "access": "Read",
        "reason": None, "child_pid": 7, "session_id": "s",
    }  # fmt: skip
    return {
        "type": "capability_decision",
        "entry": {
            "timestamp": {"secs_since_epoch": 1, "nanos_since_epoch": 0}, "request": request,
            "decision": denied if answer == "Denied" else answer, "backend": backend,
            "duration_ms": 0,
        },
    }  # fmt: skip


def url(address, success):
    request = {"request_id": "1", "url": address, "child_pid": 7, "session_id": "s"}
    return {"type": "url_open", "request": request, "success": success, "error": None}


hosts = st.sampled_from(HOSTS)
paths = st.sampled_from(PATHS)
payloads = st.one_of(
    st.builds(
        network, hosts, st.sampled_from(["allow", "deny", "approve_granted", "approve_timeout"]),
        st.none() | paths, st.none() | st.builds("https://{}/x".format, hosts),
        st.none() | st.builds(f"{LOOKED_UP}{{}}, evil.test.corp".format, hosts),
    ),
    st.builds(
        file, paths, st.sampled_from(["Denied", "Granted", "Timeout"]),
        st.sampled_from(["view", "terminal"]),
        st.sampled_from(["not granted", "not granted; it leads to /home/me/.ssh/x"]),
    ),
    st.builds(url, st.builds("https://{}/v1/a".format, hosts), st.booleans()),
)  # fmt: skip


def escaped(text, chance):
    """JSON with some characters of its strings as `\\u`, as a foreign writer may have them."""
    return re.sub(r'"(?:\\\\.|[^"\\\\])*"', lambda one: _escaped_string(one[0], chance), text)


def _escaped_string(text, chance):
    parts = re.findall(r"\\\\u....|\\\\.|.", text, re.DOTALL)
    return "".join(
        f"\\u{ord(one):04x}" if one.isascii() and one.isalnum() and chance() else one
        for one in parts
    )


@st.composite
def lines(draw):
    text = json.dumps(draw(payloads), ensure_ascii=draw(st.booleans()))
    some = draw(st.sampled_from([0, 0.05, 0.5]))
    if some:
        random = draw(st.randoms(use_true_random=False))
        text = escaped(text, lambda: random.random() < some)
    filler = json.dumps(draw(st.sampled_from(["", "\r", "evil.test", "x" * 200])))
    return f'{{"sequence":0,"event_json":{filler},"event":{text}}}\n'.encode()


host_globs = st.sampled_from(
    ["evil.test", "*.evil.test", "*", "k.test", "evil.test:443", "*.corp"]
).map(parse_host_glob)
path_globs = st.sampled_from(
    ["/v1/a", "/home/me/.ssh/identity", "/home/me/.ssh/*", '*"uo*', "*\u00fc*"]
).map(lambda text: PathGlob(TextGlob(text)))
decisions = st.sampled_from([*asking.DECISION_LITERALS, "allow"])
queries = st.one_of(
    st.builds(SearchQuery, host=host_globs),
    st.builds(SearchQuery, path=path_globs),
    st.builds(SearchQuery, decision=decisions),
    st.builds(SearchQuery, host=host_globs, path=path_globs),
    st.builds(SearchQuery, host=host_globs, decision=st.sampled_from(["deny", "allow"])),
    st.builds(SearchQuery, since=st.just(datetime.fromtimestamp(0, UTC))),
)


def wanted(query, found):
    answers = []
    for line in found:
        record = parse_record(line)
        seen = None if record is None else searched_record(record)
        if seen is not None and query.wants(seen):
            answers.append(line)
    return answers


@given(st.lists(lines(), max_size=8), queries, st.integers(1, 900), st.sampled_from([b"", b'{"ha']))
def test_nothing_that_is_wanted_is_missed(tmp_path_factory, log, query, block, half):
    path = tmp_path_factory.getbasetemp() / "searched.ndjson"
    path.write_bytes(b"".join(log) + half)
    size = path.stat().st_size
    naive = wanted(query, log)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reading, "SEARCHED_BLOCK", block)
        for groups in (query.literal_groups(), ()):
            forwards = [*candidate_lines(path, size, groups)]
            assert wanted(query, forwards) == naive
            assert [*candidate_lines_backwards(path, size, groups)] == forwards[::-1]
        assert [*candidate_lines(path, size, ())] == log


def test_other_lines_are_not_decoded(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"".join(b'{"target":"host%d.test"}\n' % number for number in range(5000)))
    groups = SearchQuery(host=parse_host_glob("HOST77.test")).literal_groups()
    assert [*candidate_lines(path, path.stat().st_size, groups)] == [b'{"target":"host77.test"}\n']


@pytest.mark.parametrize("read", [candidate_lines, candidate_lines_backwards])
def test_a_line_without_end_is_refused(tmp_path, monkeypatch, read):
    monkeypatch.setattr(reading, "MAX_LINE", 4096)
    monkeypatch.setattr(reading, "SEARCHED_BLOCK", 1000)
    path = tmp_path / "log"
    path.write_bytes(b"x" * 10_000 + b"\n")
    with pytest.raises(LogUnreadable, match="a line of more than 4096 bytes"):
        [*read(path, 10_001, ())]
