"""`kill -9` of a supervisor that looks into TLS, with requests under way: the log has each request
that reached the origin, the cage is gone, and no key is left on the disk."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from harness import PROBES, PYTHON_GRANTS, Sessions, landlock_isolation, processes_with, wait_until
from http2_peers import Http2Origin, guarded
from looked_into import HOST, authority, origin_context
from origin import serving
from own_ca import write_authority

from nono_trio.session import abandoned_entries
from nono_trio.session.command_files import CommandFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_spec("httpx") is None, reason="not installed: httpx")
HELD = 3  # requests without an answer
# The beginning of an EC key in DER: a version, and 32 bytes of it.
DER_KEY = re.compile(rb"\x02\x01\x01\x04\x20")


async def until(condition: Callable[[], bool], what: str) -> None:
    await trio.to_thread.run_sync(wait_until, condition, what)


def recorded(sessions: Sessions) -> set[str]:
    return {one["path"] for one in sessions.decisions() if one["decision"] == "allow"}


def has_key(path: Path, secret: bytes) -> bool:
    data = path.read_bytes()
    return b"PRIVATE KEY" in data or secret in data or DER_KEY.search(data) is not None


def files_below(*places: Path) -> Iterable[Path]:
    return (path for place in places for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("isolation", "protocol"),
    [("namespace", "h2"), pytest.param("landlock", "h1", marks=landlock_isolation)],
)
async def test_a_killed_run_leaves_every_request_in_the_log_and_no_key(
    isolation, protocol, sessions: Sessions, tmp_path, monkeypatch
) -> None:
    for name in ("own", "temporary"):
        (tmp_path / name).mkdir()
    sessions.variables["TMPDIR"] = str(tmp_path / "temporary")
    own = write_authority(tmp_path / "own")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(authority("origin").pem())
    many = Http2Origin()
    behaviour, tls = (guarded(many), None) if protocol == "h2" else (None, await origin_context())
    async with serving(behaviour, tls=tls) as origin:

        def seen() -> list[str]:
            if protocol == "h2":
                return [one[":path"] for one in many.requests]
            return [one.target.decode() for one in origin.requests]

        url = f"https://{HOST}:{origin.port}"
        held = f"{url}/{'hold' if protocol == 'h2' else 'events'}"

        def held_of(paths: Iterable[str]) -> set[str]:
            return {path for path in paths if path.startswith(held[len(url) :])}

        start = partial(
            sessions.started, "run", "-s", *PYTHON_GRANTS, "--read", str(PROBES),
            "--isolation", isolation, "--upstream-ca", str(roots),
            "--tls-ca-cert", str(own[0]), "--tls-ca-key", str(own[1]),
            "--allow-endpoint", f"GET {url}/**", "--resolve", f"{HOST}:{origin.port}:127.0.0.1",
            "--", sys.executable, str(PROBES / "clients/load_httpx.py"), f"{url}/ok", held,
            protocol,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with start() as run:
            wanted = 40 + random.randrange(40)

            def is_loaded() -> bool:
                return len(seen()) > wanted and len(held_of(seen())) == HELD

            await until(lambda: is_loaded() or run.poll() is not None, "load")
            assert run.poll() is None
            run.kill()
            await until(lambda: not processes_with(held), "the cage is gone")
        await trio.testing.wait_all_tasks_blocked(0.05)  # what was sent arrives
        arrived = set(seen())
    assert len(held_of(arrived)) == HELD
    assert arrived - recorded(sessions) == set()
    done = await trio.to_thread.run_sync(sessions.verdict)
    assert (done[0], done[1]["verdict"]) == (6, "crashed")
    done = await trio.to_thread.run_sync(sessions.call, "audit", "recover", "latest")
    assert done.returncode == 0, done.stderr
    done = await trio.to_thread.run_sync(sessions.verdict)
    assert (done[0], done[1]["verdict"]) == (0, "verified")
    assert arrived - recorded(sessions) == set()
    secret = load_pem_private_key(own[1].read_bytes(), None).private_numbers().private_value
    secret = secret.to_bytes(32, "big")
    assert has_key(own[1], secret)  # so it would be found
    found = [*files_below(sessions.state, sessions.home, tmp_path / "temporary")]
    assert [path for path in found if has_key(path, secret)] == []
    [left] = (sessions.state / "trust").iterdir()
    # Certificates that programs trust, and settings that name them.
    assert {re.sub(r"-\d+$", "", path.name) for path in left.iterdir()} <= {
        "lock", "ca-bundle.pem", "extra-ca.pem", "session-ca.pem", "wgetrc", "java-cacerts",
        "chromium-policy.json", "firefox-policy.json",
    }  # fmt: skip
    monkeypatch.setattr(abandoned_entries, "ABANDONED_SECONDS", -1.0)
    CommandFiles(sessions.state, "trust").close()  # as the next session does
    assert [*(sessions.state / "trust").iterdir()] == []
