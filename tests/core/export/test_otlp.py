import json

from exported_lines import BARE, EXFILTRATION, FACTS, LINES, PROGRAM, flow, record, request
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

from nono_trio.core.export import otlp
from nono_trio.core.export.otlp_message import decode_response, encode_request


def records(facts=FACTS, lines=LINES):
    return [otlp.record_of(line, facts) for line in lines]


def test_the_json_is_that_of_the_official_messages():
    for facts in (FACTS, BARE):
        ours = json_format.Parse(otlp.encode(records(facts), facts), LogsData())
        official = ExportLogsServiceRequest.FromString(encode_request(records(facts), facts))
        assert ours.resource_logs == official.resource_logs
        assert len(ours.resource_logs[0].scope_logs[0].log_records) == len(LINES)


def test_json_of_numbers_and_names_is_that_of_the_file_exporter():
    (line,) = otlp.encode(records()[:1], FACTS).splitlines()
    (found,) = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert found["timeUnixNano"] == "1782993784000000000"
    assert found["severityNumber"] == 9
    assert {"key": "nono_trio.sequence", "value": {"intValue": "0"}} in found["attributes"]


def test_a_decision_has_the_names_of_the_conventions_and_no_query_value():
    line = record(request("deny", "POST", "/a?key=s3cret"), programs=[PROGRAM])
    found = otlp.record_of(line, FACTS)
    assert found.event_name == "nono_trio.decision"
    expected = {
        "log.record.uid": f"{FACTS.session_id}/3",
        "server.address": "api.example.com",
        "server.port": 443,
        "http.request.method": "POST",
        "url.path": "/a",
        "url.query": "key=[REDACTED]",
        "process.pid": 17,
        "process.executable.path": "/usr/bin/python3.11",
    }
    assert expected.items() <= found.attributes.items()
    assert "s3cret" not in str(found.attributes["url.query"])


def test_a_body_names_an_address_of_ipv6_in_brackets():
    lines = record(request(target="2001:db8::1")), flow(target="2001:db8::1")
    decided, closed = (otlp.record_of(line, FACTS).body for line in lines)
    assert decided.startswith("allow [2001:db8::1]:443")
    assert closed.startswith("closed [2001:db8::1]:443: ")


def test_severities_grow_with_what_happened():
    severities = [
        otlp.record_of(record(payload), FACTS).severity
        for payload in (request(), request("deny"), request("deny", reason=EXFILTRATION))
    ]
    assert severities == [9, 13, 21]


def test_a_time_that_nanoseconds_can_not_hold_is_left_out():
    assert otlp.record_of(LINES[-1], FACTS).time == 0


def test_partial_success_is_read():
    answer = ExportLogsServiceResponse()
    assert decode_response(answer.SerializeToString()).count == 0
    answer.partial_success.rejected_log_records = 3
    answer.partial_success.error_message = "too old"
    found = decode_response(answer.SerializeToString())
    assert (found.count, found.message) == (3, "too old")
