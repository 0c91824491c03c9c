"""Real programs that speak HTTP/2, in real cages: an allowed and a denied request of each is seen.

No variable is set by hand. A program that is not installed is left out, and the skip names it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from harness import PROBES, PYTHON_GRANTS, SYSTEM_PYTHON, Sessions, landlock_isolation
from http2_peers import Http2Origin, guarded
from looked_into import HOST, authority
from origin import serving

if TYPE_CHECKING:
    from collections.abc import Callable

CLIENTS = PROBES / "clients"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
BUILD_SECONDS = 300  # Go compiles its standard library once a machine
JVMS = Path("/usr/lib/jvm")
INDEX = b'{"dl":"https://unused.example"}'
CRATE = (
    b'{"name":"crate","vers":"1.0.0","deps":[],"cksum":"%064d","features":{},"yanked":false}' % 0
)


def built(*words: str | Path, place: Path, **variables: str) -> None:
    subprocess.run(
        words, cwd=place, env=os.environ | variables, check=True, timeout=BUILD_SECONDS,
        capture_output=True,
    )  # fmt: skip


class Programs:
    """The clients of this machine: the words that run each of them, and the grants they need."""

    def __init__(self, place: Path, builds: Path, where: str) -> None:
        self.place, self.builds, self.base = place, builds, f"https://{where}/"
        self.words: dict[str, list[str]] = {}
        self.grants = ["--read", str(CLIENTS), "--read", str(builds), "--allow", str(place)]
        self.missing: list[str] = []
        for name, find in FINDERS.items():
            found = find(self, name)
            if found is None:
                self.missing.append(name)
            else:
                self.words[name] = found

    def urls(self, name: str) -> list[str]:
        return [f"{self.base}ok/{name}", f"{self.base}no/{name}"]

    def curl(self, name: str) -> list[str] | None:
        if shutil.which("curl") is None:
            return None
        written = "\nHTTP/%{http_version} %{http_code}\n"
        return ["curl", "-sS", "--http2", "-w", written, *self.urls(name)]

    def httpx(self, name: str) -> list[str] | None:
        if find_spec("httpx") is None:
            return None
        self.grants += PYTHON_GRANTS
        return [sys.executable, str(CLIENTS / "fetch_httpx.py"), *self.urls(name)]

    def node(self, name: str) -> list[str] | None:
        if shutil.which("node") is None:
            return None
        return ["node", str(CLIENTS / "fetch.js"), *self.urls(name)]

    def go(self, name: str) -> list[str] | None:
        """A static binary, so that nothing but the files of roots can lead it to them."""
        if shutil.which("go") is None:
            return None
        source = CLIENTS / "fetch.go"
        binary = self.builds / "go"
        if not binary.exists():
            built("go", "build", "-o", binary, source, place=self.builds, CGO_ENABLED="0")
        return [str(binary), *self.urls(name)]

    def java(self, name: str) -> list[str] | None:
        home = next(JVMS.glob(f"*{name.partition('-')[2]}-*"), None)
        if home is None or not (home / "bin/javac").exists():
            return None
        if not (self.builds / "Fetch.class").exists():
            built(
                home / "bin/javac", "--release", "17", "-d", self.builds, CLIENTS / "Fetch.java",
                place=self.builds,
            )  # fmt: skip
        program = [str(home / "bin/java"), "-XX:TieredStopAtLevel=1", "-cp", str(self.builds)]
        return [*program, "Fetch", *self.urls(name)]

    def cargo(self, name: str) -> list[str] | None:
        """One project for each registry. The binary itself: rustup's has its settings in a home."""
        if shutil.which("rustc") is None:
            return None
        done = subprocess.run(
            ["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True
        )
        root = Path(done.stdout.strip())
        if not (root / "bin/cargo").exists():
            return None
        self.grants += ["--read", str(root)]
        for answer in ("ok", "no"):
            project = self.place / answer
            (project / "src").mkdir(parents=True)
            (project / "src/lib.rs").touch()
            (project / "Cargo.toml").write_text(
                f'[package]\nname = "{answer}"\nversion = "1.0.0"\n'
                '[dependencies]\ncrate = { version = "1", registry = "here" }\n'
            )
        each = (
            'cd $1/$2; CARGO_HOME=$1/home "$3/bin/cargo" generate-lockfile --config'
            ' registries.here.index=\\"sparse+$4$2/cargo/\\" || true; shift'
        )
        script = f"a() {{ {each}; }}; a $1 ok $2 $3; a $1 no $2 $3"
        return ["sh", "-c", script, "sh", str(self.place), str(root), self.base]


FINDERS: dict[str, Callable[[Programs, str], list[str] | None]] = {
    "curl": Programs.curl,
    "httpx": Programs.httpx,
    "node": Programs.node,
    "go": Programs.go,
    "java-17": Programs.java,
    "java-25": Programs.java,
    "cargo": Programs.cargo,
}
KNOW_NO_PROXY = ["node", "go", "java-25"]  # in namespace isolation


@pytest.fixture(scope="module")
def builds(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.mark.parametrize("isolation", ISOLATIONS)
async def test_programs_that_speak_http2_are_seen_and_held_to_the_rules(
    isolation, sessions: Sessions, tmp_path, builds
) -> None:
    origin = Http2Origin(answers={"/config.json": INDEX, "/cr/at/crate": CRATE})
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority("origin").pem())
    place = tmp_path / "place"
    place.mkdir()
    async with serving(guarded(origin)) as at:
        where = f"{HOST}:{at.port}"
        programs = await trio.to_thread.run_sync(Programs, place, builds, where)
        direct = KNOW_NO_PROXY if isolation == "namespace" else []
        done = await trio.to_thread.run_sync(
            partial(
                sessions.run,
                "--upstream-ca", str(roots), "--isolation", isolation, *programs.grants,
                "--allow-domain", f"https://{where}/ok/**", "--resolve", f"{where}:127.0.0.1",
                "--", SYSTEM_PYTHON, str(CLIENTS / "all.py"), json.dumps(programs.words), *direct,
            )
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told.keys() == programs.words.keys()
    for name, text in told.items():
        assert ("403" in text, "--allow-endpoint 'GET https://" in text) == (True, True), text
        if name != "cargo":  # it does not say by which protocol
            assert len(re.findall(r"^(?:HTTP[/_]2|h2)", text, re.MULTILINE)) == 2, text
    plain = {f"/ok/{name}" for name in told if name != "cargo"}
    crate = {f"/ok/cargo{path}" for path in origin.answers} if "cargo" in told else set()
    assert {one[":path"] for one in origin.requests} == plain | crate
    seen = [one for one in sessions.decisions() if one.get("path")]
    allowed = [one["path"] for one in seen if one["decision"] == "allow"]
    assert sorted(allowed) == sorted(one[":path"] for one in origin.requests)
    assert len(seen) - len(allowed) == len(told)
    assert sessions.verdict()[0] == 0
    if programs.missing:
        pytest.skip(f"not installed: {', '.join(programs.missing)}; the others passed")
