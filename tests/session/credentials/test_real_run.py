"""A real run with credentials: an origin on loopback sees the real secret, and nobody else does."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from harness import SYSTEM_PYTHON, Origin, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import signed_origin

HOST = "api.service.example"
FIRST = "sk-first-0123456789abcdefghijklmnop"
SECOND = "sk-second-abcdefghijklmnop0123456789"
PLAIN = "plain-service-key-0123456789"
SAID = "trace-with-another-secret-0123"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]

# Asks each URL with a variable's value in a header, and tells status and body.
ASK = """
import base64, json, os, sys, urllib.error, urllib.request
told = []
for url, way, name in json.loads(sys.argv[1]):
    value = os.environ[name]
    basic = base64.b64encode(f"me:{value}".encode()).decode()
    name = "X-Other" if way == "key" else "Authorization"
    field = {"bearer": f"Bearer {value}", "basic": f"Basic {basic}", "key": value}[way]
    request = urllib.request.Request(url, headers={name: field})
    try:
        with urllib.request.urlopen(request) as answer:
            told.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        told.append([error.code, error.read().decode()])
print(json.dumps(told))
"""


class Recording:
    """What an origin saw: path and the secret of each request. `on` has what a path does."""

    def __init__(self, origin: Origin, on: dict[str, Any]) -> None:
        self.seen: list[tuple[str, str | None]] = []
        recording = self

        class Answer(origin.RequestHandlerClass):  # type: ignore[name-defined,misc]
            def do_GET(self) -> None:
                recording.seen.append((self.path, self.headers["Authorization"]))
                on.get(self.path, lambda: None)()
                super().do_GET()

        origin.RequestHandlerClass = Answer


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_origin_gets_the_secret_and_others_get_nothing(isolation, sessions, tmp_path) -> None:
    own = write_authority(tmp_path)
    key = tmp_path / "key"
    key.write_text(FIRST + "\n")
    service, plain, other = signed_origin(*own, HOST), Origin(), Origin()
    seen = Recording(
        service, {"/rotate": lambda: key.write_text(SECOND), "/remove": key.unlink}
    ).seen  # fmt: skip
    seen_plain, seen_other = Recording(plain, {}).seen, Recording(other, {}).seen
    where = f"{HOST}:{service.port}"
    sessions.variables = {"PLAIN_KEY": PLAIN}
    (sessions.home / "own.toml").write_text(
        f'[credentials.service]\nsource = "file://{key}"\nhosts = ["{where}"]\n'
        'variables = ["SERVICE_KEY"]\n'
    )
    requests = [
        (f"https://{where}/bearer", "bearer", "SERVICE_KEY"),
        (f"https://{where}/basic", "basic", "SERVICE_KEY"),
        (f"http://127.0.0.1:{plain.port}/plain", "bearer", "PLAIN_KEY"),
        (f"http://other.example:{other.port}/stolen", "bearer", "SERVICE_KEY"),
        (f"http://other.example:{other.port}/stolen", "basic", "PLAIN_KEY"),
        (f"https://{where}/another", "key", "PLAIN_KEY"),
        (f"https://{where}/rotate", "bearer", "SERVICE_KEY"),
        (f"https://{where}/remove", "bearer", "SERVICE_KEY"),
        (f"https://{where}/gone", "bearer", "SERVICE_KEY"),
    ]
    with serving(service), serving(plain), serving(other):
        done = sessions.run(
            "-p", "./own.toml", "--upstream-ca", str(own[0]), "--isolation", isolation,
            "--credential", f"plain=env://PLAIN_KEY@http://127.0.0.1:{plain.port}",
            "--resolve", f"{where}:127.0.0.1", "--resolve", f"other.example:{other.port}:127.0.0.1",
            "--allow-domain", f"other.example:{other.port}",
            "--", SYSTEM_PYTHON, "-c", ASK, json.dumps(requests),
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [status for status, _ in told] == [200, 200, 200, 403, 403, 403, 200, 200, 503]
    basic = base64.b64encode(f"me:{FIRST}".encode()).decode()
    assert seen == [
        ("/bearer", f"Bearer {FIRST}"),
        ("/basic", f"Basic {basic}"),
        ("/rotate", f"Bearer {FIRST}"),
        ("/remove", f"Bearer {SECOND}"),
    ]
    assert seen_plain == [("/plain", f"Bearer {PLAIN}")]
    assert seen_other == []
    secrets = [one.encode() for one in (FIRST, SECOND, PLAIN)]
    shown = (done.stdout + done.stderr).encode()
    files = {path: path.read_bytes() for path in sessions.state.rglob("*") if path.is_file()}
    for secret in secrets:
        assert secret not in shown
        assert not [path for path, data in files.items() if secret in data]
    events = sessions.decisions()
    swapped = [one for one in events if one.get("managed_credential_active")]
    assert {one["route_id"] for one in swapped} == {"service", "plain"}
    denied = [one for one in events if one["decision"] == "deny"]
    assert {"service", "plain"} == {
        name for one in denied for name in ("service", "plain") if name in one["reason"]
    }
    assert sessions.verdict()[0] == 0


BACKEND = """
import keyring.backend

class Of(keyring.backend.KeyringBackend):
    priority = 1
    reads = 0

    def get_password(self, service, user):
        Of.reads += 1
        if Of.reads > 2:  # as a backend may, which is too late for us
            import wsgiref.simple_server
        return f"{service}-{user}-password-1"

    def set_password(self, service, user, password): ...
    def delete_password(self, service, user): ...
"""


def test_a_private_service_alone_with_the_keyring_and_a_command(sessions, tmp_path) -> None:
    """Nothing is intercepted, and sources are asked again while the command runs."""
    pytest.importorskip("keyring")
    settings = tmp_path / "settings" / "python_keyring"
    settings.mkdir(parents=True)
    (tmp_path / "own_backend.py").write_text(BACKEND)
    (settings / "keyringrc.cfg").write_text(
        f"[backend]\ndefault-keyring=own_backend.Of\nkeyring-path={tmp_path}\n"
    )
    sessions.variables = {"XDG_CONFIG_HOME": str(tmp_path / "settings")}
    count = tmp_path / "count"
    count.write_text("0")
    script = tmp_path / "next-secret"
    script.write_text(
        f"#!/bin/sh\nn=$(($(cat {count}) + 1))\necho $n >{count}\n"
        f"if [ -e {tmp_path}/fails ]; then echo {SAID} >&2; exit 3; fi\n"
        "echo secret-of-the-command-$n\n"
    )
    script.chmod(0o755)
    origin = Origin()

    # The time to live of a second is over before the second answer of each path.
    def fail() -> None:
        (tmp_path / "fails").touch()
        time.sleep(1.1)

    seen = Recording(origin, {"/wait": lambda: time.sleep(1.1), "/fail": fail}).seen
    host = f"http://127.0.0.1:{origin.port}"
    (sessions.home / "own.toml").write_text(
        f'[credentials.k]\nsource = "keyring://service/me"\nhosts = ["{host}"]\n'
        f'variables = ["K"]\n[credentials.late]\nsource = "keyring://late/me"\nttl = 1\n'
        f'hosts = ["{host}"]\nvariables = ["LATE"]\n[credentials.c]\nsource = "cmd://{script}"\n'
        f'hosts = ["{host}"]\nvariables = ["C"]\nttl = 1\n'
    )
    order = [
        ("/k", "K"), ("/c", "C"), ("/wait", "C"), ("/c", "C"), ("/k", "K"), ("/late", "LATE"),
        ("/fail", "K"), ("/c", "C"),
    ]  # fmt: skip
    requests = [(host + path, "bearer", name) for path, name in order]
    with serving(origin):
        done = sessions.run(
            "-p", "./own.toml", "--", SYSTEM_PYTHON, "-c", ASK, json.dumps(requests)
        )
    assert done.returncode == 0, done.stderr
    status = [one for one, _ in json.loads(done.stdout)]
    assert status == [200, 200, 200, 200, 200, 503, 200, 503], done.stdout
    assert seen[0] == seen[-2] == ("/k", "Bearer service-me-password-1")
    # A shell's trace may have a secret: it goes neither to the command nor into a file.
    assert "exit code 3" in done.stdout
    files = [path.read_text("latin-1") for path in sessions.state.rglob("*") if path.is_file()]
    assert not [text for text in (done.stdout, done.stderr, *files) if SAID in text]
    commands = [
        int((field or "").rpartition("-")[2]) for path, field in seen if path in ("/c", "/wait")
    ]
    assert commands == sorted(commands)
    assert commands[-1] > commands[0]
    failed = [one for one in sessions.decisions() if one.get("denial_category")]
    assert {one["denial_category"] for one in failed} == {"managed_credential_unavailable"}
    assert sessions.verdict()[0] == 0
