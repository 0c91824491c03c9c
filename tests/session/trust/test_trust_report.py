"""Which programs of a machine trust the session's authority, as `doctor` says it."""

from __future__ import annotations

import pytest

from nono_trio.session.trust import trust_places
from nono_trio.session.trust.trust_report import BY_POLICY, trust_report


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with one file of roots, some programs on PATH, and a JDK."""
    for name in ("system.crt", "bin/curl", "bin/node", "bin/java", "bin/chromium", "bin/other"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
        path.chmod(0o755)
    store = tmp_path / "lib/security/cacerts"
    store.parent.mkdir(parents=True)
    monkeypatch.setattr(trust_places, "SYSTEM_FILES", [str(tmp_path / "system.crt")])
    monkeypatch.setattr(trust_places, "MORE_FILES", ())
    monkeypatch.setattr(trust_places, "JAVA_FILES", ())
    monkeypatch.setattr(trust_places, "JVM_DIRECTORIES", ())
    monkeypatch.setitem(BY_POLICY, "chromium", str(tmp_path / "policies"))
    return {"PATH": str(tmp_path / "bin")}, store


@pytest.mark.parametrize(("mark", "kind"), [(b"\xfe\xed\xfe\xed", "JKS"), (b"\x30\x82", "PKCS12")])
def test_programs_on_path_are_named_with_their_places(mark, kind, machine, tmp_path) -> None:
    environment, store = machine
    store.write_bytes(mark + b"...")
    report = trust_report(environment)
    assert report.trusting == ["curl", "node", "java", "chromium (in namespace isolation)"]
    assert report.not_trusting == []
    assert report.places == [str(tmp_path / "system.crt"), f"{store} ({kind})"]


def test_java_with_another_store_does_not_trust(machine) -> None:
    environment, store = machine
    store.write_bytes(b"BKS?")
    report = trust_report(environment)
    assert report.trusting == ["curl", "node", "chromium (in namespace isolation)"]
    assert report.not_trusting == ["java"]


def test_policies_of_the_machine_leave_no_place_for_ours(machine, tmp_path) -> None:
    environment, _ = machine
    (tmp_path / "policies").mkdir()
    report = trust_report(environment)
    assert (report.trusting, report.not_trusting) == (["curl", "node"], ["chromium", "java"])
