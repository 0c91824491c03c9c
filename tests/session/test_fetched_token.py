"""A run whose supervisor fetches a token for a client's secret; the command has neither."""

from __future__ import annotations

import json

import pytest
from harness import PROBES, SYSTEM_PYTHON, landlock_isolation, serving
from oauth_server import CLIENT, SECRET, OAuthServer
from own_ca import write_authority

AUTH = "auth.example"
API = "api.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
PROFILE = """
[credentials.reports]
hosts = ["api.example:{api}"]
variables = ["REPORTS_TOKEN"]
oauth2 = {{ token_url = "https://auth.example:{auth}/oauth/token", client_id = "{client}", \
client_secret = "env://CLIENT_SECRET" }}
"""
# Asks the API, and says all that it has.
SCRIPT = """
import json, os, sys, urllib.error, urllib.request
said = {"statuses": [], "variables": dict(os.environ)}
fields = {"Authorization": "Bearer " + os.environ["REPORTS_TOKEN"]}
try:
    with urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=fields)) as answer:
        said["statuses"].append(answer.status)
except urllib.error.HTTPError as error:
    said["statuses"].append(error.code)
    sys.stderr.write(error.read().decode())
print(json.dumps(said))
"""


@pytest.fixture
def servers(tmp_path):
    (tmp_path / "world").mkdir()
    own = write_authority(tmp_path / "world")
    auth, api = OAuthServer(AUTH, *own), OAuthServer(API, *own)
    api.valid = auth.valid
    with serving(auth), serving(api):
        yield auth, api, own[0], tmp_path / "world" / "reports.toml"


def run(sessions, servers, *options: str):
    auth, api, root, profile = servers
    profile.write_text(PROFILE.format(auth=auth.port, api=api.port, client=CLIENT))
    pins = [f"{AUTH}:{auth.port}:127.0.0.1", f"{API}:{api.port}:127.0.0.1"]
    return sessions.run(
        "--profile", str(profile), "--upstream-ca", str(root), "--read", str(PROBES),
        *(word for pin in pins for word in ("--resolve", pin)), *options,
        "--", SYSTEM_PYTHON, "-c", SCRIPT, f"https://{API}:{api.port}/api/me",
    )  # fmt: skip


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_command_has_a_stand_in_and_the_api_the_token(isolation, sessions, servers) -> None:
    auth, api, _, _ = servers
    sessions.variables |= {"CLIENT_SECRET": SECRET, "ITS_URL": f"https://u:{SECRET}@x.example/"}
    done = run(sessions, servers, "--isolation", isolation, "--env-allow", "ITS_URL")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["statuses"] == [200]
    assert [token for _, token, _ in api.api] == [*auth.issued]
    assert said["variables"]["REPORTS_TOKEN"].startswith("gho_")
    shown = done.stdout + done.stderr
    files = b"".join(one.read_bytes() for one in sessions.state.rglob("*") if one.is_file())
    for secret in (SECRET, *auth.issued):
        assert secret not in shown
        assert secret.encode() not in files
    [used] = [one for one in sessions.decisions() if one.get("path")]
    assert used["route_id"] == "reports"
    assert used["managed_credential_active"] is True
    assert "CLIENT_SECRET" not in said["variables"]


def test_without_a_token_no_run_starts(sessions, servers) -> None:
    api = servers[1]
    sessions.variables |= {"CLIENT_SECRET": "not the right secret"}
    done = run(sessions, servers)
    assert done.returncode == 2
    assert "credential reports: no token" in done.stderr
    assert "refused: invalid_client" in done.stderr
    assert "not the right secret" not in done.stderr
    assert SECRET not in done.stderr
    assert api.api == []
    assert not sessions.directories
