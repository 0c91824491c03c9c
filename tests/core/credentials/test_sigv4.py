"""An AWS signature is checked as AWS's own client makes it, and made anew with other keys.

sigv4_requests.json has requests that boto3 1.44 has signed; the examples below are those of AWS's
documentation.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.aws_keys import AwsKeys
from nono_trio.core.credentials.aws_signature import (
    UNSIGNED,
    BadSignature,
    Signature,
    is_over,
    read_signature,
)
from nono_trio.core.credentials.sigv4 import find_spelling, payload_hash, sign

DATA = json.loads(Path(__file__).with_name("sigv4_requests.json").read_bytes())
REQUESTS: list[dict[str, Any]] = DATA["requests"]
REAL = AwsKeys(b"ASIAREALREALREALREAL", b"the/real+key", b"the-real-token==")
WITHOUT_TOKEN = AwsKeys(b"AKIAREALREALREALREAL", b"the/real+key")
EMPTY = payload_hash(b"")

IAM = ("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
S3 = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
S3_HOST = ("host", "examplebucket.s3.amazonaws.com")
DOCUMENTED = [
    (IAM, "iam", "GET", "/?Action=ListUsers&Version=2010-05-08", "20150830T123600Z",
     [("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
      ("host", "iam.amazonaws.com")], "",
     "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"),
    (IAM, "service", "GET", "/", "20150830T123600Z", [("host", "example.amazonaws.com")], "",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
    (S3, "s3", "GET", "/test.txt", "20130524T000000Z",
     [S3_HOST, ("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY.decode())], "",
     "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
    (S3, "s3", "GET", "/?lifecycle", "20130524T000000Z",
     [S3_HOST, ("x-amz-content-sha256", EMPTY.decode())], "",
     "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    (S3, "s3", "GET", "/?max-keys=2&prefix=J", "20130524T000000Z",
     [S3_HOST, ("x-amz-content-sha256", EMPTY.decode())], "",
     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
]  # fmt: skip
PRESIGNED = (
    "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
    "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
)


def fields_of(request: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in request["fields"]]


def keys_of(request: dict[str, Any]) -> AwsKeys:
    token = DATA["token"].encode() if request["token"] else None
    return AwsKeys(DATA["key_id"].encode(), DATA["secret_key"].encode(), token)


def read(target: bytes, fields: list[tuple[bytes, bytes]]) -> Signature:
    found = read_signature(target, fields)
    assert found is not None
    return found


def seconds(time: bytes) -> float:
    return datetime.strptime(time.decode(), "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def lower(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in fields]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one["name"])
def test_what_boto3_signed_is_found_right_and_signed_the_same_again(request_):
    method, target = request_["method"].encode(), request_["target"].encode()
    fields, body = fields_of(request_), request_["body"].encode("latin-1")
    found = read(target, fields)
    payload = found.payload or payload_hash(body)
    spelling = find_spelling(found, method, target, fields, keys_of(request_), payload)
    again = sign(
        found, spelling, method, target, fields, keys_of(request_), payload, seconds(found.time)
    )
    after = read(again.target, lower(again.fields))
    find_spelling(after, method, again.target, lower(again.fields), keys_of(request_), payload)
    assert set(after.signed) >= set(found.signed) - {b"expect", b"transfer-encoding"}
    if set(after.signed) == set(found.signed):
        assert after.digest == found.digest


@pytest.mark.parametrize("real", [REAL, WITHOUT_TOKEN])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: one["name"])
def test_the_new_signature_is_of_the_real_keys_and_nothing_of_the_old_is_left(request_, real):
    method, target = request_["method"].encode(), request_["target"].encode()
    fields, body = fields_of(request_), request_["body"].encode("latin-1")
    found = read(target, fields)
    payload = found.payload or payload_hash(body)
    spelling = find_spelling(found, method, target, fields, keys_of(request_), payload)
    new = sign(found, spelling, method, target, fields, real, payload, 1_800_000_000)
    after = read(new.target, lower(new.fields))
    find_spelling(after, method, new.target, lower(new.fields), real, payload)
    assert after.time == b"20270115T080000Z"
    assert after.token == real.session_token
    sent = new.target + b"".join(name + value for name, value in new.fields)
    for old in (*keys_of(request_).texts(), found.digest, found.time):
        assert old not in sent
    assert (after.region, after.service) == (found.region, found.service)
    assert real.secret_access_key not in sent
    assert repr(new) == "SignedRequest(...)"


@pytest.mark.parametrize(
    ("keys", "service", "method", "target", "time", "fields", "body", "digest"), DOCUMENTED
)
def test_the_examples_of_the_documentation(
    keys, service, method, target, time, fields, body, digest
):
    names = sorted([name for name, _ in fields] + ["x-amz-date"])
    value = (
        f"AWS4-HMAC-SHA256 Credential={keys[0]}/{time[:8]}/us-east-1/{service}/aws4_request,"
        f"SignedHeaders={';'.join(names)},Signature={digest}"
    )
    given = [(name.encode(), text.encode()) for name, text in fields]
    given += [(b"x-amz-date", time.encode()), (b"authorization", value.encode())]
    made = AwsKeys(keys[0].encode(), keys[1].encode())
    payload = payload_hash(body.encode())
    found = read(target.encode(), given)
    spelling = find_spelling(found, method.encode(), target.encode(), given, made, payload)
    again = sign(
        found, spelling, method.encode(), target.encode(), given, made, payload, seconds(found.time)
    )
    assert digest in dict(again.fields)[b"Authorization"].decode()


def test_the_presigned_example_of_the_documentation_and_its_end():
    keys = AwsKeys(S3[0].encode(), S3[1].encode())
    host = [(b"host", b"examplebucket.s3.amazonaws.com")]
    found = read(PRESIGNED.encode(), host)
    assert found.payload == UNSIGNED
    spelling = find_spelling(found, b"GET", PRESIGNED.encode(), host, keys, UNSIGNED)
    again = sign(
        found, spelling, b"GET", PRESIGNED.encode(), host, keys, UNSIGNED, seconds(found.time)
    )
    assert again.target == PRESIGNED.encode()
    assert not is_over(found, seconds(found.time) + 86400)
    assert is_over(found, seconds(found.time) + 86401)


def _changed(request: dict[str, Any], part: str) -> dict[str, Any]:
    changed = dict(request)
    if part == "method":
        changed["method"] = "DELETE"
    elif part == "path":
        changed["target"] = "/x" + request["target"]
    elif part == "query":
        mark = "&" if "?" in request["target"] else "?"
        changed["target"] = request["target"] + mark + "x=1"
    elif part == "host":
        changed["fields"] = [
            [name, "other.example.com" if name == "host" else value]
            for name, value in request["fields"]
        ]
    elif part == "body":
        changed["body"] = request["body"] + "x"
    return changed


@pytest.mark.parametrize("part", ["method", "path", "query", "host", "body"])
@pytest.mark.parametrize("request_", REQUESTS[::3], ids=lambda one: one["name"])
def test_a_request_that_was_changed_is_not_that_of_the_stand_in(request_, part):
    changed = _changed(request_, part)
    target, fields = changed["target"].encode(), fields_of(changed)
    found = read(target, fields)
    if part == "body" and found.payload is not None:
        return  # the service compares it with the hash that was signed
    payload = found.payload or payload_hash(changed["body"].encode("latin-1"))
    with pytest.raises(BadSignature, match="is not that of the stand-in"):
        find_spelling(found, changed["method"].encode(), target, fields, keys_of(request_), payload)


@pytest.mark.parametrize(
    "keys",
    [
        AwsKeys(b"AKIAOTHER", DATA["secret_key"].encode(), DATA["token"].encode()),
        AwsKeys(DATA["key_id"].encode(), b"other", DATA["token"].encode()),
        AwsKeys(DATA["key_id"].encode(), DATA["secret_key"].encode(), b"other"),
        AwsKeys(DATA["key_id"].encode(), DATA["secret_key"].encode()),
    ],
)
def test_all_of_the_keys_must_be_those_of_the_stand_in(keys):
    one = next(one for one in REQUESTS if one["name"] == "dynamodb")
    target, fields = one["target"].encode(), fields_of(one)
    with pytest.raises(BadSignature, match="stand-in"):
        find_spelling(
            read(target, fields), b"POST", target, fields, keys, payload_hash(one["body"].encode())
        )


GOOD = (
    b"AWS4-HMAC-SHA256 Credential=AKIA/20150830/us-east-1/s3/aws4_request,"
    b" SignedHeaders=host;x-amz-date, Signature=" + b"0" * 64
)
WITH_DATE = [(b"host", b"h"), (b"x-amz-date", b"20150830T123600Z")]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(b"authorization", GOOD)], "without the header X-Amz-Date"),
        ([*WITH_DATE, (b"authorization", GOOD), (b"authorization", GOOD)], "twice"),
        ([*WITH_DATE, *WITH_DATE, (b"authorization", GOOD)], "twice"),
        ([*WITH_DATE, (b"authorization", GOOD + b", Signature=" + b"1" * 64)], "a part twice"),
        ([*WITH_DATE, (b"authorization", GOOD + b", x=y")], "other parts"),
        ([*WITH_DATE, (b"authorization", GOOD.replace(b"host;", b""))], "not over the host"),
        ([*WITH_DATE, (b"authorization", GOOD.replace(b"host;", b"host;host;"))], "twice"),
        ([*WITH_DATE, (b"authorization", GOOD.replace(b"20150830", b"20150831"))], "another date"),
        ([*WITH_DATE, (b"authorization", GOOD.replace(b"aws4_request", b"x"))], "Credential"),
        (
            [
                (b"x-amz-date", b"20159930T993699Z"),
                (b"authorization", GOOD.replace(b"20150830", b"20159930")),
            ],
            "a date that is none",
        ),
        ([*WITH_DATE, (b"authorization", GOOD[:-1])], "64 hex digits"),
        ([*WITH_DATE, (b"authorization", GOOD[:-1] + b"G")], "64 hex digits"),
        ([*WITH_DATE, (b"authorization", b"AWS AKIA:c2lnbmF0dXJl")], "version 2"),
        (
            [*WITH_DATE, (b"authorization", GOOD.replace(b"HMAC", b"ECDSA-P256"))],
            "another algorithm",
        ),
        (
            [
                *WITH_DATE,
                (b"authorization", GOOD),
                (b"x-amz-content-sha256", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
            ],
            "parts of the body",
        ),
        (
            [*WITH_DATE, (b"authorization", GOOD), (b"x-amz-content-sha256", b"0" * 63)],
            "payload hash",
        ),
    ],
)
def test_a_signature_that_can_be_read_in_two_ways_or_not_made_anew_is_refused(fields, reason):
    with pytest.raises(BadSignature, match=reason):
        read_signature(b"/", fields)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (PRESIGNED + "&X-Amz-Date=20130524T000000Z", "a part twice"),
        (PRESIGNED.replace("X-Amz-Date", "x-amz-date"), "another spelling"),
        (PRESIGNED.replace("&X-Amz-Expires=86400", ""), "not all of its parts"),
        (PRESIGNED.replace("86400", "-1"), "no time for which it holds"),
        ("/?AWSAccessKeyId=AKIA&Signature=x&Expires=1", "version 2"),
    ],
)
def test_a_presigned_query_is_read_strictly(target, reason):
    with pytest.raises(BadSignature, match=reason):
        read_signature(target.encode(), [(b"host", b"h")])


@given(
    st.binary(max_size=40),
    st.sampled_from([b"Credential=", b"20150830", b"SignedHeaders=host", b"=" + b"0" * 64, b","]),
    st.binary(max_size=40),
    st.binary(max_size=20),
)
def test_no_bytes_lead_to_another_error(text, part, query, time):
    fields = [
        (b"host", b"h"),
        (b"x-amz-date", time or b"20150830T123600Z"),
        (b"authorization", GOOD.replace(part, text)),
    ]
    presigned = PRESIGNED.encode().replace(b"20130524T000000Z", query)
    for target, given_fields in ((b"/?" + query, fields), (presigned, fields[:1])):
        try:
            found = read_signature(target, given_fields)
        except BadSignature:
            continue
        if found is not None:
            is_over(found, 0)
            with suppress(BadSignature):
                find_spelling(found, b"GET", target, given_fields, REAL, b"x")


def test_two_signatures_are_refused():
    with pytest.raises(BadSignature, match="in a header and in the query"):
        read_signature(PRESIGNED.encode(), [*WITH_DATE, (b"authorization", GOOD)])


@pytest.mark.parametrize("value", [b"Bearer abc", b"Basic YTpi", b"AWSX abc"])
def test_another_authorization_is_no_signature(value):
    assert read_signature(b"/?x=1", [(b"host", b"h"), (b"authorization", value)]) is None
