import sys

import pytest
from sealed_session import build

from nono_trio.audit.export import formats
from nono_trio.cli.audit import ship
from nono_trio.cli.main import exit_code
from nono_trio.errors import UsageError

OFFICIAL = "opentelemetry.proto.collector.logs.v1"


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("NONO_TRIO_STATE_DIR", str(tmp_path))
    (tmp_path / "audit").mkdir(mode=0o700)
    build(tmp_path / "audit", "first")
    return tmp_path


def test_the_formats_of_the_help_are_those_that_can_be_sent():
    assert ship.FORMATS == formats.LINE_FORMATS


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("otlp+https://c.example.com", (True, "c.example.com", 4318, "/v1/logs")),
        ("otlp://c.example.com:443/", (True, "c.example.com", 443, "/v1/logs")),
        ("otlp+http://[::1]:80/a/b", (False, "::1", 80, "/a/b")),
    ],
)
def test_an_endpoint_is_read(to, expected):
    found = ship.parse_endpoint(to, tls=not to.startswith("otlp+http:"))
    assert (found.tls, found.host, found.port, found.path) == expected


@pytest.mark.parametrize(
    "to",
    [
        "otlp+https://", "otlp+https://user:secret@a.test", "otlp+https://a.test?key=secret",
        "otlp+https://a.test:99999", "otlp+https://[::1", "otlp+https://ä.test",
    ],
)  # fmt: skip
def test_a_bad_endpoint_is_refused_without_its_secret(to):
    with pytest.raises(UsageError) as refused:
        ship.parse_endpoint(to, tls=True)
    assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to", "file:///x"], "expected one session, or --all"),
        (["--all", "--to", "https://a.test"], "expected a destination"),
        (["--all", "--to", "file://relative"], "expected a destination"),
        (["--all", "--to", "{root}/ledger.ndjson"], "where logs are kept"),
        (["--all", "--to", "file://{root}/first/audit-events.ndjson"], "where logs are kept"),
        (["--all", "--to", "{root}/.."], "expected a file, got something else"),
        (["--all", "--to", "/dev/null"], "expected a file, got something else"),
        (["--all", "--to", "cmd://no-such-program-at-all x"], "there is no command"),
        (["--all", "--to", "cmd://'"], "is not a command line"),
        (["--all", "--to", "file:///x", "--header", "a=env://B"], "are for otlp+https://"),
        (["--all", "--to", "otlp+http://a.test", "--header", "a=env://B"], "without TLS"),
        (["--all", "--to", "otlp://a.test", "--header", "a"], "expected NAME=SOURCE"),
        (["--all", "--to", "otlp://a.test", "--header", "a=env://NOT_SET_HERE"], "is not set"),
        (
            ["--all", "--to", "otlp://a.test", "--header", "a=Bearer s3cr3t"],
            "--header a: expected a refer",
        ),
        (["--all", "--to", "otlp://a.test", "--ca-file", "/no/such"], "--ca-file"),
        (["--all", "--to", "file:///x", "--ocsf-integrity"], "is for --format ocsf"),
        (["no-such", "--to", "file:///x"], "expected a session"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_a_hint(state, capsys, arguments, expected):
    arguments = [one.replace("{root}", str(state / "audit")) for one in arguments]
    before = {one: one.read_bytes() for one in state.rglob("*") if one.is_file()}
    assert exit_code(["audit", "ship", *arguments]) == 2
    assert {one: one.read_bytes() for one in state.rglob("*") if one.is_file()} == before
    error = capsys.readouterr().err
    assert expected in error
    assert "hint: " in error
    assert "s3cr3t" not in error


def test_without_the_extra_an_endpoint_says_what_to_install(state, monkeypatch, capsys):
    for name in [*sys.modules]:
        if name.startswith(("nono_trio.audit.export.otlp", "nono_trio.core.export.otlp_message")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, f"{OFFICIAL}.logs_service_pb2", None)
    assert exit_code(["audit", "ship", "--all", "--to", "otlp+https://a.test"]) == 2
    assert "pip install 'nono-trio[otlp]'" in capsys.readouterr().err
    output = state / "out.jsonl"
    assert exit_code(["audit", "ship", "--all", "--to", str(output)]) == 0
    assert "resourceLogs" in output.read_text()


def test_a_path_is_a_file_and_one_session_can_be_sent(state, capsys):
    build(state / "audit", "second")
    output = state / "out.jsonl"
    assert exit_code(["audit", "ship", "first", "--to", str(output), "--format", "ndjson"]) == 0
    text = output.read_text()
    assert "first/6" in text
    assert "second/" not in text
    assert "7 lines sent" in capsys.readouterr().err
    assert exit_code(["audit", "ship", "--all", "--to", str(output), "--format", "ndjson"]) == 0
    assert output.read_text().count("/6") == 2
