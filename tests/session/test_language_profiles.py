"""Profiles for languages: real tools build a program in the cage, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from harness import Sessions, landlock_isolation

from nono_trio.config import profiles

if TYPE_CHECKING:
    from pathlib import Path

both_isolations = pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
LANGUAGES = ["dotnet-dev", "go-dev", "java-dev", "ruby-dev", "rust-dev"]
# Files of tools with passwords, tokens or private keys.
SECRETS = [
    ".cargo/credentials.toml", ".m2/settings.xml", ".gradle/gradle.properties", ".gem/credentials",
    ".bundle/config", ".nuget/NuGet/NuGet.Config", ".dotnet/corefx/cryptography/x509stores/a",
]  # fmt: skip


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_language_has_its_work_a_home_and_no_secret(sessions: Sessions, name: str) -> None:
    for secret in SECRETS:
        path = sessions.home / secret
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sesame")
    work = sessions.home / "work"
    work.mkdir()
    profile = profiles.load(name, {"HOME": str(sessions.home)}).sourced.profile
    assert profile.filesystem.home == "kept"
    assert profile.meta.notes
    words = ("-p", name, "--isolation", "namespace", "--", "cat")
    paths = [str(sessions.home / secret) for secret in SECRETS]
    assert sessions.run(*words, *paths, cwd=work).stdout == ""


@both_isolations
def test_cargo_builds(sessions: Sessions, isolation: str) -> None:
    toolchain = installed_toolchain()
    work = sessions.home / "work"
    (work / "src").mkdir(parents=True)
    (work / "Cargo.toml").write_text(
        '[package]\nname = "tiny"\nversion = "0.1.0"\nedition = "2021"\n'
    )
    (work / "src/main.rs").write_text('fn main() { println!("built") }\n')
    sessions.variables = {"PATH": f"{toolchain}:{os.environ['PATH']}"}
    words = ("-s", "-p", "rust-dev", "--read", os.path.dirname(toolchain), "--isolation", isolation)
    done = sessions.run(*words, "--", "cargo", "run", "-q", "--offline", cwd=work)
    assert done.stdout == "built\n", done.stderr


def installed_toolchain() -> str:
    """Return the directory of a real cargo and rustc: rustup's stand-ins look in the real home."""
    if shutil.which("rustc") is None or shutil.which("cc") is None:
        pytest.skip("rustc or cc is not installed")
    done = subprocess.run(
        ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
    )
    return f"{done.stdout.strip()}/bin"


@both_isolations
def test_javac_and_java(sessions: Sessions, isolation: str) -> None:
    if shutil.which("javac") is None:
        pytest.skip("javac is not installed")
    work: Path = sessions.home / "work"
    work.mkdir()
    (work / "Tiny.java").write_text(
        'class Tiny { public static void main(String[] a) { System.out.println("built"); } }\n'
    )
    words = ("-s", "-p", "java-dev", "--isolation", isolation)
    script = "javac Tiny.java && java Tiny"
    done = sessions.run(*words, "--", "sh", "-c", script, cwd=work)
    assert done.stdout == "built\n", done.stderr


# -- devices --------------------------------------------------------------------------------------

TUN = """
import fcntl, os
features = bytearray(4)
fcntl.ioctl(os.open("/dev/net/tun", os.O_RDWR), 0x800454CF, features)
print("answered" if any(features) else "nothing")
"""


@both_isolations
@pytest.mark.parametrize(
    ("grants", "answer"),
    [
        (["--allow", "/dev/net"], "answered\n"),
        (["--allow-file", "/dev/net/tun"], "answered\n"),
        ([], ""),
    ],
)
def test_a_granted_device_answers_ioctls(
    sessions: Sessions, isolation: str, grants: list[str], answer: str
) -> None:
    """As those of a GPU: a directory of nodes, or a node by itself. Without a grant: no device."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun can't be opened")
    work = sessions.home / "work"
    work.mkdir()
    words = ("-s", "--isolation", isolation, "--allow-cwd", *grants)
    done = sessions.run(*words, "--", "/usr/bin/python3", "-c", TUN, cwd=work)
    assert done.stdout == answer, done.stderr
