"""An MCP body is read in one way, or not at all."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_bodies import ALLOWED, DENIED, call, message, plain_form, readings, spellings

from nono_trio.core.http import mcp_reader
from nono_trio.core.http.mcp_message import MAX_BODY, BadMessage, Message
from nono_trio.core.http.mcp_reader import MAX_BATCH, check_fields, read_messages


def fault(body: bytes, *fields: tuple[bytes, bytes]) -> str:
    with pytest.raises(BadMessage) as raised:
        read_messages(body, fields)
    return raised.value.reason


def test_a_call_has_its_tool_and_the_hash_of_its_arguments():
    parameters = b'{"name":"a","arguments": {"b":1} }'
    body = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":%b}' % parameters
    digest = hashlib.sha256(b'{"b":1}').hexdigest()
    assert read_messages(body) == (Message("tools/call", "a", f"sha256:{digest}", 7),)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (message("tools/list", "x"), Message("tools/list", identifier="x")),
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}',
         Message("notifications/initialized")),
        (b'{"jsonrpc":"2.0","id":1,"result":{"method":"tools/call"}}', Message(None)),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}', Message(None)),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\u0061"}}',
         Message("tools/call", "a", "", 1)),
    ],
)  # fmt: skip
def test_other_messages(body, found):
    assert read_messages(body) == (found,)


def test_a_batch_is_all_of_its_messages():
    batch = b"[" + call("a") + b"," + message("ping", 2) + b"]"
    assert [one.method for one in read_messages(batch)] == ["tools/call", "ping"]
    many = b"[" + b",".join([message("ping")] * (MAX_BATCH + 1)) + b"]"
    assert "more than 32" in fault(many)
    assert "none" in fault(b"[]")


def test_a_body_is_read_at_its_longest_and_no_longer():
    whole = call()
    assert read_messages(whole + b" " * (MAX_BODY - len(whole)))
    assert "longer than" in fault(whole + b" " * (MAX_BODY + 1 - len(whole)))


@pytest.mark.parametrize("name", ["a" + "\u0301\u0316" * 16_000, "\ufdfa" * 21_000, "m" * 257])
def test_a_long_name_of_a_member_is_not_compared(name, monkeypatch):
    """To put 64 KiB of accents in their order took 1.4 s, and all other clients waited."""
    compared: list[str] = []
    monkeypatch.setattr(mcp_reader, "folded", lambda text: compared.append(text) or text)
    head = '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"'
    for body in (f'{head},"{name}":1}}}}', f'{head}}},"{name}":1}}'):
        assert "longer than 256" in fault(body.encode())
    assert not any(len(one) > 256 for one in compared)


def test_no_beginning_of_a_message_and_nothing_behind_it_is_a_message():
    whole = call("a", b=[1, {"c": "d"}])
    for end in range(len(whole)):
        fault(whole[:end])
    for byte in range(256):
        if byte not in b" \t\r\n":
            fault(whole + bytes([byte]))


def test_no_spelling_of_a_call_is_read_as_something_else():
    """A body that is read is what every server would run."""
    for name, body, _ in spellings():
        try:
            messages = read_messages(body)
        except BadMessage:
            continue
        read = {(plain_form(one.method or ""), plain_form(one.tool or "")) for one in messages}
        assert readings(body) <= read, name


MEMBERS = st.sampled_from(
    ["method", "Method", "m\\u0065thod", "params", "PARAMS", "jsonrpc", "id", "x", "method\\u0000"]
)
VALUES = st.sampled_from(
    ['"tools/call"', '"tools/list"', '{"name":"delete_repo"}', '{"name":"search"}', '"2.0"', "1",
     '{"name":"search","Name":"delete_repo"}', '{"name":"delete_repo","name":"search"}', "null"]
)  # fmt: skip
PAIRS = st.lists(st.tuples(MEMBERS, VALUES), min_size=2, max_size=6)


@given(pairs=PAIRS, batch=st.booleans())
def test_of_no_members_two_servers_make_two_messages(pairs, batch):
    pairs = [("jsonrpc", '"2.0"'), *pairs]
    text = "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
    body = (f"[{text}]" if batch else text).encode()
    try:
        (one,) = read_messages(body)
    except BadMessage:
        return
    # A name in another message than a call is no tool.
    read = {(method, tool if method == "tools/call" else "") for method, tool in readings(body)}
    assert read <= {(one.method or "", one.tool or "")}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_any_json_is_read_or_refused(value):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": value}).encode()
    with suppress(BadMessage):
        read_messages(body)


@pytest.mark.parametrize(
    ("fields", "accepted"),
    [
        ([(b"content-type", b"application/json")], True),
        ([(b"content-type", b"Application/JSON; charset=UTF-8")], True),
        ([(b"content-type", b'application/json;charset="utf-8"')], True),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"identity")], True),
        ([], False),
        ([(b"content-type", b"application/json")] * 2, False),
        ([(b"content-type", b"application/json, text/plain")], False),
        ([(b"content-type", b"application/json; charset=utf-16")], False),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"gzip")], False),
        ([(b"content-type", b"application/json"), (b"content-encoding", b"identity, br")], False),
        ([(b"content-type", b"application/json"), (b"content_encoding", b"identity")], False),
        ([(b"content-type", b"application/json"), (b"mcp.name", b"x")], False),
    ],
)
def test_only_json_in_utf_8_is_read(fields, accepted):
    if accepted:
        return check_fields(fields)
    with pytest.raises(BadMessage) as raised:
        check_fields(fields)
    assert raised.value.status in (400, 415)
    return None


def test_fields_that_repeat_the_message_must_agree():
    body = call(ALLOWED)
    assert read_messages(body, [(b"mcp-method", b"tools/call"), (b"mcp-name", b"search")])
    assert read_messages(body, [(b"mcp-name", b"=?base64?c2VhcmNo?=")])
    assert "Mcp-Method" in fault(body, (b"mcp-method", b"tools/list"))
    assert "Mcp-Name" in fault(body, (b"mcp-name", DENIED.encode()))
    assert "Mcp-Name" in fault(body, (b"mcp-name", b"=?base64?ZGVsZXRl?="))
    assert "more than one" in fault(body, (b"mcp-name", b"search"), (b"mcp-name", b"delete"))
    assert "more than one" in fault(b"[%b,%b]" % (body, body), (b"mcp-method", b"tools/call"))
