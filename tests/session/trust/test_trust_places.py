"""The places of certificates: links are followed, and npm's settings are read."""

from __future__ import annotations

import os

import pytest

from nono_trio.session.trust import trust_places
from nono_trio.session.trust.trust_places import java_stores, npm_cafiles, system_files


def test_links_lead_to_one_place(tmp_path, monkeypatch) -> None:
    real = tmp_path / "real.crt"
    real.write_text("x")
    (tmp_path / "link.pem").symlink_to(real)
    (tmp_path / "broken.pem").symlink_to(tmp_path / "missing")
    names = [str(tmp_path / name) for name in ("link.pem", "real.crt", "broken.pem", "missing")]
    monkeypatch.setattr(trust_places, "SYSTEM_FILES", names)
    assert system_files()[str(real)] == names[:2]


@pytest.fixture
def jdk(tmp_path):
    """A JDK with its trust store, and a link to its java on PATH."""
    home = tmp_path / "jdk"
    for part in ("bin/java", "lib/security/cacerts"):
        (home / part).parent.mkdir(parents=True)
        (home / part).write_text("x")
    (home / "bin/java").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/java").symlink_to(home / "bin/java")
    return home


def test_the_java_on_path_comes_first(jdk, tmp_path) -> None:
    assert java_stores({"PATH": str(tmp_path / "bin")})[0] == str(jdk / "lib/security/cacerts")


def test_java_home_is_looked_at(jdk) -> None:
    assert java_stores({"PATH": "", "JAVA_HOME": str(jdk)})[0] == str(jdk / "lib/security/cacerts")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cafile=/etc/own.pem\n", ["/etc/own.pem"]),
        ('registry=x\n  cafile = "own.pem"\n', ["own.pem"]),
        ("# cafile=/etc/own.pem\n//host/:cafile=/x\n", None),
        ("cafile=\n", None),
        ("cafile=/etc/own\0.pem\n", None),
        ("\n" * 60_000 + "cafile=own.pem", ["own.pem"]),  # it took seconds by a pattern
    ],
)
def test_npms_setting_is_found(text, named, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trust_places, "NPM_SETTINGS", ())
    (tmp_path / ".npmrc").write_text(text)
    expected = named and [os.path.join(tmp_path, one) for one in named]
    assert npm_cafiles([str(tmp_path), "/missing"]) == expected


def test_a_pipe_in_its_place_is_not_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(trust_places, "NPM_SETTINGS", ())
    os.mkfifo(tmp_path / ".npmrc")
    assert npm_cafiles([str(tmp_path)]) is None
