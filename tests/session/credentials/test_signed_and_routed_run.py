"""A real run with AWS keys and with reverse routes: origins on loopback check what they get."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_requests import is_signed
from harness import SYSTEM_PYTHON, Origin, landlock_isolation, serving
from own_ca import write_authority
from schemas import validate, validate_directory
from tls_origin import signed_origin

from nono_trio.core.credentials.aws_keys import AwsKeys

HOST = "api.service.example"
STORE = "store.service.example"
SECRET = "sk-first-0123456789abcdefghijklmnop"
KEYS = AwsKeys(
    b"ASIAIOSFODNN7EXAMPLE",
    b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    b"IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ==",
)
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]

# Signs by itself, as a client of AWS does, and asks each URL; tells status and body.
ASK = """
import hashlib, hmac, json, os, sys, time, urllib.error, urllib.parse, urllib.request

def signed(url, body):
    parts = urllib.parse.urlsplit(url)
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    fields = {"host": parts.netloc, "x-amz-date": now,
              "x-amz-security-token": os.environ["AWS_SESSION_TOKEN"]}
    names = ";".join(sorted(fields))
    lines = "".join(f"{name}:{fields[name]}\\n" for name in sorted(fields))
    digest = hashlib.sha256(body).hexdigest()
    text = f"POST\\n{parts.path}\\n{parts.query}\\n{lines}\\n{names}\\n{digest}"
    scope = f"{now[:8]}/eu-central-1/dynamodb/aws4_request"
    key = b"AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    string = f"AWS4-HMAC-SHA256\\n{now}\\n{scope}\\n{hashlib.sha256(text.encode()).hexdigest()}"
    signature = hmac.digest(key, string.encode(), "sha256").hex()
    del fields["host"]
    fields["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope},"
        f" SignedHeaders={names}, Signature={signature}")
    return fields

told = []
for url, way in json.loads(sys.argv[1]):
    for name, value in os.environ.items():
        url = url.replace("{" + name + "}", value)
    body = b'{"a": 1}' if way == "signed" else None
    fields = signed(url, body) if body else {}
    if way == "bearer":
        fields["Authorization"] = "Bearer " + os.environ["SERVICE_KEY"]
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, fields)) as answer:
            told.append(answer.status)
    except urllib.error.HTTPError as error:
        told.append(error.code)
print(json.dumps(told))
"""


class Checking:
    """The requests of an origin: path, Host and whether the secret or the signature was right."""

    def __init__(self, origin: Origin) -> None:
        self.seen: list[tuple[str, str, bool]] = []
        checking = self

        class Answer(origin.RequestHandlerClass):  # type: ignore[name-defined,misc]
            def do_GET(self) -> None:
                right = self.headers["Authorization"] == f"Bearer {SECRET}"
                checking.seen.append((self.path, self.headers["Host"], right))
                super().do_GET()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                checking.seen.append((self.path, self.headers["Host"], is_signed(self, body, KEYS)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

        origin.RequestHandlerClass = Answer


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_requests_are_signed_and_routes_lead_to_their_hosts(isolation, sessions, tmp_path) -> None:
    own = write_authority(tmp_path)
    service, store = signed_origin(*own, HOST), signed_origin(*own, STORE)
    seen, seen_store = Checking(service).seen, Checking(store).seen
    where, where_store = f"{HOST}:{service.port}", f"{STORE}:{store.port}"
    real: dict[str, Any] = dict(zip(VARIABLES, map(bytes.decode, KEYS.texts()), strict=True))
    sessions.variables = {"SERVICE_KEY": SECRET, **real}
    (sessions.home / "own.toml").write_text(
        f'[credentials.service]\nsource = "env://SERVICE_KEY"\nhosts = ["{where}"]\nroute = true\n'
    )
    requests = [
        (f"https://{where_store}/table?x=1", "signed"),
        ("{AWS_ENDPOINT_URL}/table?x=2", "signed"),
        ("{SERVICE_BASE_URL}/v1/models", "bearer"),
        ("{SERVICE_BASE_URL}/v1/models", "nothing"),
        ("{SERVICE_BASE_URL}/../aws/x", "bearer"),
        (f"https://{where}/v1/direct", "bearer"),
        (f"https://{where}/v1/stolen", "signed"),
    ]
    assert sessions.call("keys", "generate").returncode == 0
    summary = tmp_path / "summary"
    with serving(service), serving(store):
        done = sessions.run(
            "-p", "./own.toml", "--upstream-ca", str(own[0]), "--isolation", isolation,
            "--audit-sign-key", "default", "--summary", "json", "--summary-file", str(summary),
            "--credential", f"aws@{where_store}", "--credential-route", "aws",
            "--resolve", f"{where}:127.0.0.1", "--resolve", f"{where_store}:127.0.0.1",
            "--", SYSTEM_PYTHON, "-c", ASK, json.dumps(requests),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [200, 200, 200, 401, 400, 200, 403]
    assert seen_store == [("/table?x=1", where_store, True), ("/table?x=2", where_store, True)]
    assert seen == [("/v1/models", where, True), ("/v1/direct", where, True)]
    secrets = [SECRET.encode(), *KEYS.texts()]
    shown = (done.stdout + done.stderr).encode()
    files = {path: path.read_bytes() for path in sessions.state.rglob("*") if path.is_file()}
    for secret in secrets:
        assert secret not in shown
        assert not [path for path, data in files.items() if secret in data]
    allowed = [one for one in sessions.decisions() if one["decision"] == "allow"]
    used = [
        (one["mode"], one["route_id"], one["auth_mechanism"])
        for one in allowed
        if one.get("managed_credential_active") and one["mode"] == "reverse"
    ]
    assert used == [
        ("reverse", "aws", "phantom_header"),
        ("reverse", "service", "phantom_header"),
    ]
    assert sessions.verdict()[0] == 0
    assert validate_directory(sessions.only) >= {"processes.ndjson", "audit-attestation.bundle"}
    validate_directory(sessions.state / "audit")
    validate("run-summary", json.loads(summary.read_text()))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--credential-route", "openai"), "there is no such credential"),
        (("--credential", "github", "--credential-route", "github"), "a route needs one host"),
    ],
)
def test_a_route_that_can_not_be_made_ends_the_run(sessions, flags, reason) -> None:
    sessions.variables = {"GH_TOKEN": "ghp_0123456789abcdefghijABCDEFGHIJ456789"}
    done = sessions.run(*flags, "--", "true")
    assert done.returncode == 2
    assert reason in done.stderr
    assert "hint: " in done.stderr


def test_a_proxy_alone_has_the_routes_and_the_keys_in_its_ready_line(sessions) -> None:
    real = dict(zip(VARIABLES, map(bytes.decode, KEYS.texts()), strict=True))
    sessions.variables = {"OPENAI_API_KEY": SECRET, **real}
    flags = ("--credential", "openai", "--credential-route", "openai", "--credential", "aws@a.test")
    with sessions.proxy(*flags) as (process, line):
        validate("proxy-ready", line)
        assert line["routes"] == {"openai": f"http://127.0.0.1:{line['port']}/openai/v1"}
        assert line["credentials"]["aws"].keys() == set(VARIABLES)
        assert not set(real.values()) & set(line["credentials"]["aws"].values())
        process.terminate()
        assert process.wait(60) == 0
