"""NONO_TRIO_DENIALS: what a program of the cage can read about its own denials."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import SYSTEM_PYTHON, as_user, landlock_isolation

from nono_trio.core.log.events import Network, NetworkEvent
from nono_trio.core.policy.allow_entry import allow_flag, denial_text
from nono_trio.core.policy.reasons import with_allow_entry
from nono_trio.session import abandoned_entries
from nono_trio.session.denials_file import MAX_BYTES, DenialsFile

if TYPE_CHECKING:
    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation), "none"]
ASK = """
import os, urllib.request
path = os.environ["NONO_TRIO_DENIALS"]
for host in ("a", "b", "a"):
    try:
        urllib.request.urlopen(f"http://{host}.example.com/")
    except OSError:
        pass
    print(open(path).read().splitlines()[-1])  # at once: it is there before the answer
print(len(open(path).read().splitlines()))
for change in (
    lambda: open(path, "a"), lambda: os.unlink(path), lambda: os.rename(path, path + "x"),
    lambda: os.truncate(path, 0), lambda: os.chmod(path, 0o666),
    lambda: os.symlink("/etc/passwd", os.path.dirname(path) + "/other"),
):
    try:
        change()
        print("changed")
    except OSError:
        print("refused")
"""


def event(target: str, reason: str, port: int | None = 443, **more: str) -> NetworkEvent:
    return NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision="deny", target=target, port=port,
        reason=reason, **more,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "reason", "shown"),
    [
        (
            "2001:db8::1",
            "[2001:db8::1]:443 is not on the allowlist",
            "[2001:db8::1]:443 is not on",
        ),
        ("a.test", "can't connect to a.test:443: refused", "can't connect to a.test:443: refused"),
        ("a.test", "it took too long", "a.test:443: it took too long"),
        (
            "a.test",
            with_allow_entry("no TLS", "tcp://a.test:443"),
            "a.test:443: no TLS (to allow: ",
        ),
    ],
)
def test_a_line_names_its_host_once(target: str, reason: str, shown: str) -> None:
    text = denial_text(event(target, reason))
    assert text is not None
    assert text.startswith(shown)
    assert text.split(" (to allow")[0].count(target) == 1


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_program_reads_why_and_can_change_nothing(sessions: Sessions, isolation: str) -> None:
    done = sessions.run("--isolation", isolation, "--", SYSTEM_PYTHON, "-c", ASK)
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "a.example.com:80 is not on the allowlist (to allow: --allow-domain a.example.com:80)",
        "b.example.com:80 is not on the allowlist (to allow: --allow-domain b.example.com:80)",
        "b.example.com:80 is not on the allowlist (to allow: --allow-domain b.example.com:80)",
        "2",
    ], done.stderr
    expected = ["refused"] * 6
    if isolation == "none":  # modes are not checked there: its own file's, which ends with it
        expected[4] = "changed"
    assert lines[4:] == expected
    assert os.listdir(sessions.state / "denials") == []


@pytest.mark.parametrize("isolation", ISOLATIONS[:2])
def test_an_ordinary_user_has_it_too(isolation: str) -> None:
    prefix, variables = as_user("nobody", Path(__file__))
    with tempfile.TemporaryDirectory() as place:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(place, nobody.pw_uid, nobody.pw_gid)
        done = subprocess.run(
            [*prefix, "-B", "-m", "nono_trio", "run", "--isolation", isolation,
             "--", SYSTEM_PYTHON, "-c", ASK],
            env={"PATH": os.environ["PATH"], "HOME": place, **variables},
            capture_output=True, text=True, check=False, cwd="/", timeout=60,
        )  # fmt: skip
    assert done.stdout.splitlines()[3:] == ["2", *["refused"] * 6], done.stderr


@pytest.mark.parametrize("granted", ["/run", "/tmp"])
def test_it_is_not_put_where_the_host_s_files_are(sessions: Sessions, granted: str) -> None:
    if str(sessions.state).startswith(granted):
        pytest.skip("the state of this test lies there")
    script = 'echo "$NONO_TRIO_DENIALS"; cat "$NONO_TRIO_DENIALS"'
    done = sessions.run("--isolation", "namespace", "--read", granted, "--", "sh", "-c", script)
    assert done.stdout, done.stderr
    assert not done.stdout.startswith(f"{granted}/"), done.stderr


def test_lines_are_bounded_printable_and_not_repeated(tmp_path: Path) -> None:
    denials = DenialsFile(tmp_path)
    denials.session_id = "5e55"
    try:
        for number in range(3000):
            reason = f"h{number}.test:443 is not on the allowlist"
            denials.observe(number, Network(event=event(f"h{number}.test", reason)))
        denials.observe(1, Network(event=event("x\n\x1b[1mevil", "y" * 10_000)))
        text = Path(denials.source).read_text(encoding="utf-8")
    finally:
        denials.close()
    assert len(text) <= MAX_BYTES
    assert text.endswith("\nmore was denied than fits here: nono-trio audit show 5e55\n")
    assert os.listdir(tmp_path / "denials") == []


def test_a_hostile_text_is_one_harmless_line(tmp_path: Path) -> None:
    denials = DenialsFile(tmp_path)
    try:
        denials.observe(1, Network(event=event("x\n\x1b[1mevil", "y" * 10_000)))
        (line,) = Path(denials.source).read_text(encoding="utf-8").splitlines()
    finally:
        denials.close()
    assert line.isprintable()
    assert len(line) < 1000


def test_a_file_whose_supervisor_was_killed_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "denials"
    directory.mkdir()
    living = DenialsFile(tmp_path)
    dead = directory / "0123456789abcdef"
    dead.write_text("old\n")
    monkeypatch.setattr(abandoned_entries, "ABANDONED_SECONDS", -1.0)
    try:
        DenialsFile(tmp_path).close()
        assert os.listdir(directory) == [os.path.basename(living.source)]
    finally:
        living.close()


@pytest.mark.parametrize(
    ("reason", "flag"),
    [
        ("a.test:443 is not on the allowlist", "--allow-domain a.test:443"),
        ("a.test resolved to 10.0.0.1, in a private range", "--allow-domain a.test:443"),
        ("a.test resolved to ::1, a loopback address", "--resolve a.test:443:[::1]"),
        (
            "a.test resolved to 192.0.2.7, an address of this machine",
            "--allow-domain 192.0.2.7:443",
        ),
        ("a.test resolved to 169.254.0.1, a link-local address", None),
        ("a.test resolved to x; rm, a loopback address", None),
        ("anything else", None),
    ],
)
def test_the_flag_follows_from_the_reason(reason: str, flag: str | None) -> None:
    assert allow_flag("a.test", 443, reason) == flag
    assert allow_flag("[REDACTED].test", 443, reason) is None
    assert (denial_text(event("a.test", reason)) or "").count("(to allow: ") == (flag is not None)
