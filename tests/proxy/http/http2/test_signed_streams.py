"""AWS signatures over HTTP/2: each stream is checked and signed as a request of HTTP/1.1 is."""

from __future__ import annotations

import pytest
from aws_requests import REAL, STAND_INS, check_parts, held_keys, signed, signed_fields
from held_credentials import credentials
from http2_peers import Seen, multiplexing
from looked_into import HOST

from nono_trio.core.credentials.aws_keys import AwsKeys
from nono_trio.core.credentials.aws_signature import UNSIGNED
from nono_trio.core.credentials.sigv4 import payload_hash
from nono_trio.proxy.credentials import signing_guard

GUESSED = AwsKeys(STAND_INS.access_key_id, b"guessed", STAND_INS.session_token)


def check(seen: Seen, method: bytes, body: bytes = b"") -> None:
    fields = [one for one in seen.fields if not one[0].startswith(b":")]
    check_parts(method, seen[":path"].encode(), [(b"host", HOST.encode()), *fields], body)


@pytest.mark.parametrize(
    "request_",
    [
        signed(body=b"abc", target="/echo"),
        signed(body=b"abc", target="/echo", service="s3", declared=UNSIGNED),
        signed(body=b"abc", target="/echo", service="s3", declared=payload_hash(b"abc")),
    ],
)
async def test_a_stream_is_signed_anew(request_):
    async with multiplexing(credentials=credentials(held_keys())) as at, at.client() as client:
        target, fields, body = signed_fields(request_)
        answer = await client.ask(target, body, "POST", fields=fields)
        assert (answer.status, answer.body) == (200, b"abc")
        check(at.origin.requests[0], b"POST", b"abc")
        target, fields, _ = signed_fields(signed("GET", "/x?b&a=1"))
        assert (await client.ask(target, fields=fields)).status == 200
        check(at.origin.requests[1], b"GET")
        event = at.at.proxy.recorder.events[-1]
        assert (event.route_id, event.managed_credential_active) == ("aws", True)
        shown = repr(at.at.proxy.recorder.events)
        assert not any(one.decode() in shown for one in (*STAND_INS.texts(), *REAL.texts()))


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (signed(body=b"abc", keys=GUESSED), 403),
        (signed(body=b"abc", keys=GUESSED, service="s3", declared=UNSIGNED), 403),
        (signed(body=b"Action=AssumeRole", service="sts"), 403),
        (signed(body=b"x" * 70_001), 413),
        (signed(body=b"abc")[:-1] + b"d", 403),
    ],
)
async def test_a_stream_that_can_not_be_signed_is_refused(monkeypatch, request_, status):
    monkeypatch.setattr(signing_guard, "MAX_BODY", 70_000)
    async with multiplexing(credentials=credentials(held_keys())) as at, at.client() as client:
        target, fields, body = signed_fields(request_)
        for declared in (True, False):
            given = [one for one in fields if declared or one[0] != b"content-length"]
            answer = await client.ask(target, body, "POST", fields=given)
            assert answer.status == status
        assert not any(seen.ended for seen in at.origin.requests)
