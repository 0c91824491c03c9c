"""`doctor`: this machine as it is, and machines that lack something, really or on paper."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from harness import NONO_TRIO
from schemas import validate

from nono_trio.errors import CageFailed
from nono_trio.explain.doctor import best_isolation, check_keyring
from nono_trio.sandbox import probe
from nono_trio.sandbox.attribution import self_check
from nono_trio.sandbox.probe import Check
from nono_trio.sandbox.spawn import ConnectBrokerRefused, LaunchFailed, NamespacesRefused


def told(sessions):
    done = sessions.call("doctor", "--json")
    validate("doctor", json.loads(done.stdout))
    return done.returncode, json.loads(done.stdout)


def test_this_machine(sessions):
    code, answer = told(sessions)
    assert (code, answer["schema"], answer["isolation"]) == (0, 1, "namespace")
    checks = {check["name"]: check for check in answer["checks"]}
    for name in ("kernel", "Landlock", "new namespaces", "mount view", "cage", "pidfd"):
        assert checks[name]["state"] == "ok"
    assert not sessions.state.exists()


def test_for_people(sessions):
    done = sessions.call("doctor")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("ok       kernel")
    assert done.stdout.endswith("runs are fully isolated on this machine (--isolation namespace)\n")


@pytest.mark.parametrize("kind", ["net", "mnt", "user"])
def test_a_machine_without_namespaces(sessions, kind):
    """Really without: the limit is set in a user namespace of the test's own."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1) here")
    limit = f"/proc/sys/user/max_{kind}_namespaces"
    shell = f"echo 0 >{limit} && exec {NONO_TRIO} doctor"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", shell],
        env=sessions.environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert (done.returncode, done.stderr) == (1, "")
    assert "missing  new namespaces" in done.stdout
    assert f"get it: sysctl -w user.max_{kind}_namespaces=15000 (it is 0)" in done.stdout
    assert "no more namespaces allowed (sysctl user.max_*_namespaces)" in done.stdout
    fallback = "ok       seccomp, TCP rules" in done.stdout  # not before Linux 6.7
    assert ("`auto` takes --isolation landlock" in done.stdout) == fallback
    assert ("runs can't be isolated on this machine" in done.stdout) != fallback


# -- why namespaces are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "fix"),
    [
        ("sys/user/max_user_namespaces", "0", "user.max_user_namespaces"),
        ("sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "sys/kernel/apparmor_restrict_unprivileged_userns", "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("self/status", "Name:\tx\nSeccomp:\t2\n", "seccomp profile"),
    ],
)  # fmt: skip
def test_causes(tmp_path, path, text, fix, monkeypatch):
    monkeypatch.setattr(probe, "CONTAINER_MARKS", ())
    assert "security module" in probe.namespace_fixes(tmp_path)[0]
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    (found,) = probe.namespace_fixes(tmp_path)
    assert fix in found


def test_several_causes_are_all_named(tmp_path):
    for name in ("user", "net"):
        file = tmp_path / f"sys/user/max_{name}_namespaces"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("0\n")
    assert len(probe.namespace_fixes(tmp_path)) == 2


def test_inside_a_cage_it_says_so(tmp_path):
    assert probe.namespace_fixes(tmp_path, inside_cage=True) == [
        "this runs inside a cage already: ask outside of it"
    ]


# -- the messages of a failed launch --------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "states"),
    [
        ("namespaces", ["missing", "unknown", "unknown"]),
        ("loopback", ["ok", "missing", "unknown"]),
        ("listener", ["ok", "missing", "unknown"]),
        ("file system view", ["ok", "ok", "missing"]),
    ],
)
def test_each_stage_has_its_line(stage, states):
    checks = probe.check_namespaces(NamespacesRefused(stage, "not permitted"))
    assert [check.state for check in checks] == states
    missing = checks[states.index("missing")]
    assert (missing.found, missing.fix is not None) == ("not permitted", True)


def test_another_failure_says_nothing_about_namespaces():
    for failed in (LaunchFailed("landlock", "no such call"), CageFailed("no such command")):
        assert {check.state for check in probe.check_namespaces(failed)} == {"unknown"}


@pytest.mark.parametrize(
    ("release", "state"),
    [("6.18.44-fc", "ok"), ("5.13.0", "ok"), ("5.12.9", "missing"), ("4.19-rc1", "missing")],
)
def test_kernels(release, state):
    assert probe.check_kernel(release).state == state


def library(features):
    """nono-py's part of the answer, with these features."""
    flags = {name: name in features for name, _ in probe.FEATURES}
    return SimpleNamespace(detect_abi=lambda: SimpleNamespace(version="V3", **flags))


def test_landlock_features():
    check = probe.check_landlock(library({"has_refer", "has_truncate"}))
    assert check.found == (
        "ABI V3: files, renames, truncation; not TCP, devices, signals and abstract sockets"
    )


def test_no_landlock():
    def detect_abi():
        raise RuntimeError(
            "Sandbox initialization failed: Landlock is not supported (last error: ABI V1: 0b11)"
        )

    check = probe.check_landlock(SimpleNamespace(detect_abi=detect_abi))
    assert (check.state, check.found) == ("missing", "Landlock is not supported")
    assert "CONFIG_SECURITY_LANDLOCK" in check.fix


def test_the_connect_broker(tmp_path):
    assert probe.check_connect_broker(None, tmp_path).state == "ok"
    refused = probe.check_connect_broker(ConnectBrokerRefused("connect broker", "busy"), tmp_path)
    assert (refused.state, refused.found, refused.degrades) == ("missing", "busy", False)
    scope = tmp_path / "sys" / "kernel" / "yama" / "ptrace_scope"
    scope.parent.mkdir(parents=True)
    scope.write_text("3\n")
    refused = probe.check_connect_broker(None, tmp_path)
    assert (refused.state, refused.found) == ("missing", "kernel.yama.ptrace_scope is 3")
    assert refused.fix is not None


def test_few_descriptors(monkeypatch):
    monkeypatch.setattr(probe.resource, "getrlimit", lambda _which: (256, 512))
    check = probe.check_limits()
    assert (check.state, check.degrades) == ("missing", False)
    assert "256, at most 512" in check.found


def test_no_socket_diag(monkeypatch):
    assert probe.check_attribution().state == "ok"
    monkeypatch.setattr(self_check, "open_socket_diag", lambda: None)
    check = probe.check_attribution()
    assert (check.state, check.degrades) == ("missing", False)


def test_no_pidfd(monkeypatch):
    def refuse(_pid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    assert probe.check_pidfd().degrades


FALLBACK = Check(probe.FALLBACK, "ok", "", required=False)
GOOD = Check("x", "ok", "")
OPTIONAL = Check("y", "missing", "", required=False)
BAD = Check("z", "missing", "")


@pytest.mark.parametrize(
    ("checks", "isolation"),
    [
        ([GOOD, FALLBACK], "namespace"),
        ([GOOD, OPTIONAL], "namespace"),
        ([GOOD, BAD, FALLBACK], "landlock"),
        ([GOOD, BAD], None),
    ],
)
def test_what_it_comes_to(checks, isolation):
    assert best_isolation(checks) == isolation


@pytest.mark.parametrize("found", [None, object()])
def test_the_keyring_is_optional(found, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: found)
    check = check_keyring()
    assert (check.state, check.degrades) == ("ok" if found else "missing", False)
    assert found or check.fix == "pip install 'nono-trio[keyring]'"
