"""The policy of a session that has ended is read back: `audit show`, `audit why`, `audit learn`."""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from typing import TYPE_CHECKING

from harness import PYTHON_GRANTS, allow, free_port
from installation import PACKAGE

from nono_trio.session.policy_facts import package_digest

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Origin, Sessions


def test_the_digest_covers_the_name_and_bytes_of_each_file_of_ours() -> None:
    hasher = hashlib.sha256()
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    for name, path in sorted((str(path.relative_to(PACKAGE)), path) for path in files):
        data = path.read_bytes()
        hasher.update(f"{name}\0{len(data)}\0".encode() + data)
    assert package_digest() == hasher.hexdigest()


def test_a_session_tells_what_it_was_allowed(
    sessions: Sessions, origin: Origin, tmp_path: Path
) -> None:
    for name in ("in", "out", "both"):
        (tmp_path / name).mkdir()
    fetch = f"import urllib.request as u; u.urlopen('http://api.example.com:{origin.port}/').read()"
    done = sessions.run(
        *PYTHON_GRANTS, *allow(origin), "--read", str(tmp_path / "in"),
        "--write", str(tmp_path / "out"), "--allow", str(tmp_path / "both"),
        "--", sys.executable, "-c", fetch,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = sessions.call("audit", "show").stdout
    (row,) = (line for line in shown.splitlines() if line.startswith("allow "))
    assert row.endswith("127.0.0.1 (pin)")

    def why(*question: str) -> dict[str, object]:
        return json.loads(sessions.call("audit", "why", "latest", "--json", *question).stdout)

    port = str(origin.port)
    answer = why("--host", "api.example.com", "--port", port)
    assert answer["status"] == "allowed"
    assert answer["line"] == f"api.example.com:{port} (--allow-domain)"
    assert answer["note"] == "pinned to 127.0.0.1 (--resolve)"
    assert why("--host", "evil.example.net")["status"] == "denied"
    assert why("--path", str(tmp_path / "in/x"))["status"] == "allowed"
    written = why("--path", str(tmp_path / "in/x"), "--op", "write")
    assert (written["status"], written["line"]) == ("denied", "--read")
    assert why("--path", str(tmp_path / "out/x"), "--op", "write")["status"] == "allowed"
    assert why("--path", str(tmp_path / "else"))["status"] == "denied"

    profile = sessions.call("audit", "learn").stdout
    files = tomllib.loads(profile)["filesystem"]
    assert str(tmp_path / "in") in files["read"]
    assert files["write"] == [str(tmp_path / "out")]
    assert files["allow"] == [str(tmp_path / "both")]
    (sessions.home / "learned.toml").write_text(profile)
    again = sessions.run("-p", "./learned.toml", "--", sys.executable, "-c", fetch)
    assert again.returncode == 0, again.stderr
    assert len(origin.seen) == 2


def test_a_learned_profile_opens_nothing_that_the_session_closed(sessions: Sessions) -> None:
    """Before: --deny, --deny-domain, the home and passed variables were not in the profile."""
    project = sessions.home / "project"
    (project / "closed").mkdir(parents=True)
    (project / "closed" / "key").write_text("held\n")
    sessions.variables |= {"MY_API_TOKEN": "secret", "PLAIN": "plain"}
    listen, unused = free_port(), free_port()
    done = sessions.run(
        "--allow-cwd", "--deny", "./closed", "--deny-domain", "t.example.net",
        "--env-allow", "MY_API_TOKEN", "--env-deny", "PLAIN", "--home", "kept=learned",
        "--listen-port", str(listen), "--open-port", str(unused), "--fail-on-deny",
        "--resolve", "far.example.com:80:127.0.0.1", "--expect-deny", "u.example.net",
        "--", "sh", "-c", "echo mine >~/mine", cwd=project,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = sessions.call("audit", "learn").stdout
    assert "judged with: --fail-on policy --expect-deny u.example.net\n" in text
    profile = tomllib.loads(text)
    assert profile["filesystem"] == {
        "allow": [str(project)], "deny": [str(project / "closed")], "home": "kept=learned",
    }  # fmt: skip
    assert profile["network"]["deny_domain"] == ["t.example.net"]
    assert profile["network"]["resolve"] == ["far.example.com:80:127.0.0.1"]
    assert profile["network"]["listen_port"] == [listen]
    assert f"# open_port = [{unused}]  # never used" in text
    assert profile["environment"] == {"allow": ["MY_API_TOKEN"], "deny": ["PLAIN"]}
    (sessions.home / "learned.toml").write_text(text)
    script = "cat closed/key; cat ~/mine; echo $MY_API_TOKEN $PLAIN; curl -s -o /dev/null http://t.example.net/"
    again = sessions.run(
        "-p", "../learned.toml", "--fail-on-deny", "--", "sh", "-c", f"{script}; true", cwd=project
    )
    assert again.returncode == 0, again.stderr
    assert again.stdout.split() == ["mine", "secret"]


def test_a_question_that_can_not_be_meant_is_a_usage_error(sessions: Sessions) -> None:
    sessions.run("--", "true")
    for question in ([], ["--host", "a.test", "--path", "/x"], ["--path", "/x", "--port", "1"]):
        assert sessions.call("audit", "why", "latest", *question).returncode == 2
    (sessions.only / "policy.json").write_text("{}")
    done = sessions.call("audit", "why", "latest", "--path", "/x")
    assert done.returncode == 2
    assert "no policy that its log binds" in done.stderr
