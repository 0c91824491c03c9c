"""Real programs in real cages: their requests to an intercepted host are seen and held to rules."""

from __future__ import annotations

import json
import shutil

import pytest
from harness import PROBES, SYSTEM_PYTHON, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import signed_origin

HOST = "seen.example"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_requests_of_real_programs_are_seen_and_held_to_the_rules(
    isolation, sessions, tmp_path
) -> None:
    own = write_authority(tmp_path)
    origin = signed_origin(*own, HOST)
    where = f"{HOST}:{origin.port}"
    ways = ["transparent"] if isolation == "namespace" else []
    with serving(origin):
        done = sessions.run(
            "--upstream-ca", str(own[0]), "--isolation", isolation, "--read", str(PROBES),
            "--allow-domain", f"https://{where}/ok/**", "--resolve", f"{where}:127.0.0.1",
            "--", SYSTEM_PYTHON, str(PROBES / "seen_clients.py"), f"https://{where}/", *ways,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    paths = [path.lstrip("/").partition("/info")[0] for path in origin.seen]
    assert sorted(paths) == sorted(path for path in told if path.startswith("ok/"))
    assert {"ok/python-proxy"} <= set(paths)
    if isolation == "namespace" and shutil.which("curl"):
        assert {"ok/curl-proxy", "ok/curl-transparent"} <= set(paths)
    refused = {path: text for path, text in told.items() if path.startswith("no/")}
    assert {path for path, text in refused.items() if "403" not in text} == set()
    shown = {path: text for path, text in refused.items() if "git" not in path}  # it hides bodies
    assert {path for path, text in shown.items() if "--allow-endpoint" not in text} == set()
    events = [one["event"].get("event", {}) for one in sessions.records(sessions.only)]
    seen = [one for one in events if one.get("path")]
    assert len(seen) == len(told)
    assert {(one["mode"], one["target"]) for one in seen} == {("connect_intercept", HOST)}
    assert len([one for one in seen if one["decision"] == "allow"]) == len(origin.seen)
    assert sessions.call("audit", "verify", "latest").returncode == 0
