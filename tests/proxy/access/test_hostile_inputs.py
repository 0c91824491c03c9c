"""Hostile requests through the pure core: parse (400), then token (407), then policy (403).

tests/data/hostile-inputs.json is a collection of attacks on proxies, each with the answers that
would be safe; hostile_siblings.py holds their siblings. Cases with a body or a clock are in
tests/proxy/http/test_hostile_requests.py.
"""

from __future__ import annotations

import re

import pytest
from hostile_heads import CASES, expand, request
from hostile_siblings import (
    ADDRESSES,
    AUTH,
    CONNECT_TARGETS,
    CREDENTIALS,
    FIELDS,
    HOSTS,
    HTTP_TARGETS,
    LINES,
)

from nono_trio.core.http.bad_request import BadRequest
from nono_trio.core.http.header_fields import end_to_end_fields, presented_token
from nono_trio.core.http.message import RequestHead
from nono_trio.core.http.request_head import head_end, parse_head
from nono_trio.core.http.target import connect_target, http_target
from nono_trio.core.policy.network_policy import Policy

TOKEN = b"t0k"
INCOMPLETE = "close"  # no head yet: the proxy waits, then closes
POLICY = Policy.build(["allowed.test:443", "localhost-origin.test:80"])


def judge(wire: bytes, resolved: list[str]) -> str:
    """The status that the pure core decides; 200 if it allows the request."""
    try:
        end = head_end(wire, 0)
        return INCOMPLETE if end < 0 else judge_head(parse_head(wire[:end]), resolved)
    except BadRequest as fault:
        return str(fault.status)


def judge_head(head: RequestHead, resolved: list[str]) -> str:
    if head.method == "CONNECT":
        host, port = connect_target(head)
    else:
        target = http_target(head)
        host, port = target.host, target.port
    if presented_token(head.first(b"proxy-authorization")) != TOKEN:
        return "407"
    verdicts = [POLICY.decide(host, port)]
    verdicts += [POLICY.check_address(host, port, address) for address in resolved]
    return "200" if all(verdict.allowed for verdict in verdicts) else "403"


def dns_answers(case: dict) -> list[str]:
    answers = case.get("fixture", {}).get("dns", {}).values()
    return [one.split(" then ")[0] for addresses in answers for one in addresses]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case_of_the_collection(case):
    first_answers = {one.split(",")[0] for one in case["expect"].split("|")}
    status = judge(expand(case["request"]), dns_answers(case))
    assert status in first_answers


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_no_refusal_names_a_secret_or_a_control_character(case):
    wire = expand(case["request"])
    try:
        head = parse_head(wire[: head_end(wire, 0)])
        (connect_target if head.method == "CONNECT" else http_target)(head)
    except BadRequest as fault:
        shown = fault.reason + fault.target + str(fault)
    else:
        shown = repr(head)
    assert re.fullmatch(r"[\x20-\x7e]+", shown)
    assert AUTH.split()[1] not in shown
    assert "nono:token" not in shown
    assert "s3cr3t" not in shown


@pytest.mark.parametrize(("target", "status"), CONNECT_TARGETS)
def test_connect_targets(target, status):
    assert judge(request(f"CONNECT {target} HTTP/1.1"), []) == status


@pytest.mark.parametrize(("address", "status"), ADDRESSES)
@pytest.mark.parametrize("line", ["CONNECT {}:443 HTTP/1.1", "GET http://{}/ HTTP/1.1"])
def test_addresses_as_targets(line, address, status):
    assert judge(request(line.format(address)), []) == status


@pytest.mark.parametrize(("target", "status"), HTTP_TARGETS)
def test_http_targets(target, status):
    assert judge(request(f"GET {target} HTTP/1.1"), []) == status


@pytest.mark.parametrize(("fields", "status"), FIELDS)
def test_fields(fields, status):
    line = "POST http://localhost-origin.test/ HTTP/1.1"
    assert judge(request(line, *fields), []) == status
    reverse = request(line, *(field for field in fields[::-1]))
    assert (judge(reverse, []) == "200") is (status == "200")


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_host_fields(host, status):
    assert judge(request("CONNECT allowed.test:443 HTTP/1.1", host=host), []) == status


@pytest.mark.parametrize(("line", "status"), LINES)
def test_request_lines(line, status):
    assert judge(request(line), []) == status


@pytest.mark.parametrize(("field", "status"), CREDENTIALS)
def test_credentials(field, status):
    wire = f"CONNECT allowed.test:443 HTTP/1.1\r\nHost: allowed.test\r\n{field}\r\n\r\n"
    assert judge(wire.encode("latin-1"), []) == status


@pytest.mark.parametrize(
    "fields", [("Content-Length: 5",), ("Content-Length: 0",), ("Transfer-Encoding: chunked",)]
)
def test_a_connect_has_no_body(fields):
    assert judge(request("CONNECT allowed.test:443 HTTP/1.1", *fields), []) == "400"


@pytest.mark.parametrize(
    "line", ["GET http://localhost-origin.test/ HTTP/1.0", "CONNECT allowed.test:443 HTTP/1.0"]
)
def test_chunked_is_unknown_to_http_1_0(line):
    assert judge(request(line), []) == "200"
    assert judge(request(line, "Transfer-Encoding: chunked"), []) == "400"


SHOWN_TARGETS = [  # request line, what the audit may name
    ("CONNECT user:pw@allowed.test:443 HTTP/1.1", "allowed.test:443"),
    ("GET http://nono:s3cr3t@a.test/x?k=s3cr3t HTTP/1.1", "a.test/x"),
    ("GET http://nono:s3cr3t\\@a.test/ HTTP/1.1", "a.test/"),
    ("GET http://nono:s3cr3t?@a.test/ HTTP/1.1", ""),
    ("GET http://nono:s3cr3t#@a.test/ HTTP/1.1", ""),
    ("GET http://evil.test#@a.test/ HTTP/1.1", "http://evil.test"),
    ("GET ftp://a.test/?k=s3cr3t HTTP/1.1", "ftp://a.test/"),
    ("GET /?k=s3cr3t HTTP/1.1", "/"),
    ("CONNECT allowed.test\x00.evil.test:443 HTTP/1.1", "allowed.test\\x00"),
    ("CONNECT evil.test\n{}:443 HTTP/1.1", "evil.test\\x0a"),
    ("CONNECT \xd0\xb0llowed.test:443 HTTP/1.1", "\\xd0\\xb0llowed.test:443"),
    ("CONNECT\x85allowed.test:443 HTTP/1.1", ""),
    ('{"a": "b"} http://a.test/ HTTP/1.1', ""),
    ("G{T http://a.test/ HTTP/1.1", ""),
    ("GET http://x@nono:s3cr3t\x00@a.test/ HTTP/1.1", ""),
    ("GET http://a.test\\/?mail=x@b.test&k=s3cr3t HTTP/1.1", ""),
    ("GET ftp://a.test/?mail=x@b.test&k=s3cr3t HTTP/1.1", "ftp://a.test/"),
    ("CONNECT\tallowed.test:443\tHTTP/1.1", ""),
    ("CONNECT  allowed.test:443 HTTP/1.1", "allowed.test:443"),
    ("connect allowed.test:443 HTTP/1.1", "allowed.test:443"),
    ("TRACE http://a.test/?k=s3cr3t HTTP/1.1", "http://a.test/"),
    ("PRI * HTTP/2.0", "*"),
    (f"CONNECT {'a' * 300}:443 HTTP/1.1", "a" * 255),
    (f"GET {'http://a.test/' + 'a' * 9000} HTTP/1.1", "http://a.test/" + "a" * 241),
    ("GET http://nono:s3cr3t\x00@a.test/ HTTP/1.1", ""),
    ("CONNECT nono:s3cr3t\x00@a.test:443 HTTP/1.1", ""),
    ("CONNECT allowed.test:443\x00 HTTP/1.1", "allowed.test:443\\x00"),
    (f"GET http://nono:s3cr3t{'x' * 9000}@a.test/ HTTP/1.1", ""),
    ("GET http://nono:s3cr3t@a.test/ HTTP/1.1\x00", "a.test/"),
]


@pytest.mark.parametrize(
    ("line", "target"),
    SHOWN_TARGETS,
)
def test_targets_in_the_audit(line, target):
    wire = request(line)
    with pytest.raises(BadRequest) as refused:
        judge_head(parse_head(wire[: head_end(wire, 0)]), [])
    assert refused.value.target == target


def test_connection_can_not_delete_the_host():
    wire = request("GET http://localhost-origin.test/ HTTP/1.1", "Connection: Host, X", "X: y")
    assert (b"host", b"allowed.test") in end_to_end_fields(parse_head(wire).fields)
    assert b"x" not in dict(end_to_end_fields(parse_head(wire).fields))
