"""AWS signatures over HTTP/1.1: checked with the stand-ins, and made anew with the real keys."""

from __future__ import annotations

import pytest
from aws_requests import REAL, STAND_INS, HeldKeys, check, held_keys, signed
from held_credentials import OTHER_STAND_IN, credentials, held
from looked_into import HOST, LookedInto, looking_into
from running_proxy import until

from nono_trio.core.credentials.aws_keys import AwsKeys
from nono_trio.core.credentials.aws_signature import UNSIGNED
from nono_trio.core.credentials.credential import Place
from nono_trio.core.credentials.sigv4 import payload_hash
from nono_trio.core.credentials.swap import MAX_BODY
from nono_trio.proxy.credentials import signing_guard
from nono_trio.proxy.credentials.interfaces import SecretUnavailable

OTHER = AwsKeys(b"AKIAOTHEROTHEROTHER0", STAND_INS.secret_access_key, STAND_INS.session_token)
GUESSED = AwsKeys(STAND_INS.access_key_id, b"guessed", STAND_INS.session_token)


def last(at: LookedInto):
    return at.proxy.recorder.events[-1]


def signing(*more: object, **settings: object):
    return looking_into(credentials=credentials(held_keys(), *more), **settings)


def assert_nothing_shown(at: LookedInto) -> None:
    shown = repr(at.proxy.recorder.events) + repr(at.proxy.recorder.flows)
    for one in (*STAND_INS.texts(), *REAL.texts()):
        assert one.decode() not in shown


@pytest.mark.parametrize(
    "request_",
    [
        signed(body=b'{"a": 1}'),
        signed(body=b'{"a": 1}', chunked=True),
        signed(body=b'{"a": 1}', service="s3", declared=payload_hash(b'{"a": 1}')),
        signed(body=b'{"a": 1}', service="s3", declared=UNSIGNED),
        signed("PUT", "/a%20b/c%2Fd?x=%2B&y", body=b'{"a": 1}', service="s3", declared=UNSIGNED),
        signed(body=b'{"a": 1}', fields=("X-Amz-Target: T.Get", "Content-Type: text/x")),
    ],
)
async def test_what_the_stand_in_has_signed_goes_out_signed_by_the_real_keys(request_):
    async with signing() as at, at.tunnel() as wire:
        for number in range(2):
            answer = await wire.exchange(request_, "POST")
            assert answer is not None
            assert answer.status == 200, answer.body
            check(at.origin.requests[number], b'{"a": 1}')
        assert at.origin.bodies == [8, 8]
        event = last(at)
        assert (event.route_id, event.managed_credential_active) == ("aws", True)
        assert event.injection_mode == "header"
        for one in (*STAND_INS.texts(), REAL.secret_access_key):
            assert one not in at.origin.seen
        assert_nothing_shown(at)


async def test_a_request_without_a_body_and_a_presigned_one():
    async with signing() as at, at.tunnel() as wire:
        answer = await wire.exchange(signed("GET", "/small?b=2&a=1"))
        assert answer is not None
        assert answer.status == 200
        check(at.origin.requests[0])
        answer = await wire.exchange(
            signed("GET", "/small", service="s3", presigned=True, declared=UNSIGNED)
        )
        assert answer is not None
        assert answer.status == 200
        found = check(at.origin.requests[1])
        assert found.expires == 600
        assert last(at).injection_mode == "query_param"
        assert_nothing_shown(at)


async def test_a_body_whose_hash_is_declared_is_not_held():
    body = b"x" * 200_000
    request = signed("PUT", "/echo", body=body, service="s3", declared=payload_hash(body))
    async with signing() as at, at.tunnel() as wire:
        await wire.send(request[: -len(body) + 100_000])
        while b"xxx" not in at.origin.seen:
            await wire.receive()
        await wire.send(request[-len(body) + 100_000 :])
        while sum(at.origin.bodies) != len(body):
            await wire.receive()
        check(at.origin.requests[0], body)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (signed(body=b"abc", keys=OTHER), "is of another key than the stand-in"),
        (signed(body=b"abc", keys=GUESSED), "is not that of the stand-in"),
        (signed(body=b"abc")[:-1] + b"d", "is not that of the stand-in"),
        (signed("GET", "/small").replace(b"/small", b"/other"), "is not that of the stand-in"),
        (
            signed(body=b"abc", declared=b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", service="s3"),
            "goes on in the parts of the body",
        ),
        (
            signed(body=b"Action=AssumeRole&RoleArn=x", service="sts"),
            "is for a call whose answer may have real keys",
        ),
        (
            signed(
                body=b"Action=AssumeRole",
                service="sts",
                declared=payload_hash(b"Action=AssumeRole"),
            ),
            "is for a call whose answer may have real keys",
        ),
    ],
)
async def test_what_the_stand_in_has_not_signed_goes_nowhere(request_, reason):
    async with signing() as at, at.tunnel() as wire:
        answer = await wire.exchange(request_, request_[:4].decode().strip())
        assert answer is not None
        assert answer.status == 403
        assert reason in (last(at).reason or "")
        assert at.origin.requests == []
        assert_nothing_shown(at)


async def test_a_scope_that_is_not_the_hosts_is_refused(monkeypatch):
    asked = []
    monkeypatch.setattr(signing_guard, "is_for_host", lambda *scope: bool(asked.append(scope)))
    async with signing() as at, at.tunnel() as wire:
        answer = await wire.exchange(signed("GET", "/small"))
        assert answer is not None
        assert answer.status == 403
        assert asked == [("eu-central-1", "dynamodb", HOST)]
        assert at.origin.requests == []


async def test_a_request_without_a_signature_gets_none():
    async with signing() as at, at.tunnel() as wire:
        answer = await wire.exchange(f"GET /small HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert answer is not None
        assert answer.status == 200
        assert b"authorization" not in dict(at.origin.requests[0].headers)
        assert last(at).managed_credential_active is not True


async def test_another_credential_of_the_same_host_is_swapped_as_ever():
    bearer = held()
    async with signing(bearer) as at, at.tunnel() as wire:
        value = bearer.stand_in.decode()
        request = f"GET /small HTTP/1.1\r\nHost: {HOST}\r\nX-Api-Key: {value}\r\n\r\n"
        answer = await wire.exchange(request.encode())
        assert answer is not None
        assert dict(at.origin.requests[0].headers)[b"x-api-key"] == bearer.value


@pytest.mark.parametrize("part", STAND_INS.texts())
async def test_no_part_of_the_stand_ins_goes_to_another_host(part):
    keys = held_keys("elsewhere.test")
    async with looking_into(credentials=credentials(keys)) as at, at.tunnel() as wire:
        request = f"POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(part)}\r\n\r\n"
        answer = await wire.exchange(request.encode() + part, "POST")
        assert answer is not None
        assert answer.status == 403
        assert "exfiltration" in (last(at).reason or "")


async def test_a_signed_request_to_another_host_betrays_the_stand_in():
    keys = held_keys("elsewhere.test")
    async with looking_into(credentials=credentials(keys)) as at, at.tunnel() as wire:
        answer = await wire.exchange(signed("GET", "/small"))
        assert answer is not None
        assert answer.status == 403
        assert at.origin.requests == []


async def test_keys_that_can_not_be_had_are_a_503():
    keys = held_keys()
    keys.value = SecretUnavailable("you are not signed in")
    async with looking_into(credentials=credentials(keys)) as at, at.tunnel() as wire:
        answer = await wire.exchange(signed(body=b"abc"), "POST")
        assert answer is not None
        assert answer.status == 503
        assert last(at).denial_category == "managed_credential_unavailable"
        assert at.origin.requests == []


async def test_keys_without_a_token_take_the_token_away():
    keys: HeldKeys = held_keys()
    keys.value = AwsKeys(b"AKIAREALREALREALREAL", b"the/real")
    async with looking_into(credentials=credentials(keys)) as at, at.tunnel() as wire:
        answer = await wire.exchange(signed(body=b"abc"), "POST")
        assert answer is not None
        assert answer.status == 200
        check(at.origin.requests[0], b"abc", keys.value)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_that_is_too_long_to_hash_is_refused(monkeypatch, chunked):
    monkeypatch.setattr(signing_guard, "MAX_BODY", 1000)
    async with signing() as at, at.tunnel() as wire:
        answer = await wire.exchange(signed(body=b"x" * 1001, chunked=chunked), "POST")
        assert answer is not None
        assert answer.status == 413
        assert at.origin.requests == []


async def test_bodies_have_room_in_the_whole_session_and_give_it_back():
    found = credentials(held_keys())
    async with looking_into(credentials=found) as at, at.tunnel() as wire:
        rooms = found.bodies
        request = signed(body=b"x" * 5000)
        await wire.send(request[:-1])
        await until(lambda: rooms.held > 0)
        assert rooms.held == 5000
        answer = await wire.exchange(request[-1:], "POST")
        assert answer is not None
        assert answer.status == 200
        answer = await wire.exchange(f"GET /small HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert rooms.held == 0
        rooms.held = signing_guard.MAX_BODY * 8
        answer = await wire.exchange(request, "POST")
        assert answer is not None
        assert answer.status == 503


async def test_a_body_that_is_not_hashed_takes_no_room_for_one():
    body_places = held(name="form", places={Place.BODY}, stand_in=OTHER_STAND_IN)
    async with signing(body_places) as at, at.tunnel() as wire:
        head = f"POST /sink HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
        piece = b"x" * (MAX_BODY + 1)
        await wire.send(f"{head}Transfer-Encoding: chunked\r\n\r\n{len(piece):x}\r\n".encode())
        await wire.send(piece)  # its end never comes
        await until(lambda: last(at).method == "POST")
        assert last(at).decision == "allow"
