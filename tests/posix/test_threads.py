"""The system refuses new threads: callers wait for one, and the session continues."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path

import pytest
import trio
from harness import PROBES, RUN_SECONDS, as_user, guarded

from nono_trio.threads import in_thread

PROBE = PROBES / "every_process.py"
REFUSED = RuntimeError("can't start new thread")
# Above what the supervisor and the cage have: about five processes, and a thread or two.
PROCESSES = 40


def refusing(monkeypatch: pytest.MonkeyPatch, times: int) -> list[object]:
    """Have threads refused so many times; what was asked for is in the list."""
    asked: list[object] = []

    async def run_sync(function, *arguments, **settings):
        await trio.lowlevel.checkpoint()
        asked.append(settings["limiter"])
        if len(asked) <= times:
            raise REFUSED
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    return asked


async def test_a_thread_is_waited_for(monkeypatch, autojump_clock):
    limiter = trio.CapacityLimiter(1)
    asked = refusing(monkeypatch, 100)
    assert await in_thread(divmod, 7, 2, limiter=limiter) == (3, 1)
    assert asked == [limiter] * 101
    assert trio.current_time() < 10


async def test_the_wait_ends_with_its_scope(monkeypatch, autojump_clock):
    refusing(monkeypatch, 10**9)
    with trio.move_on_after(3) as scope:
        await in_thread(divmod, 7, 2)
    assert scope.cancelled_caught


async def test_what_the_function_raises_is_raised():
    def fail():
        raise RuntimeError("of its own")

    with pytest.raises(RuntimeError, match="of its own"):
        await in_thread(fail)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


@pytest.mark.parametrize("isolation", ["namespace", pytest.param("landlock", marks=guarded)])
@pytest.mark.parametrize("sync", ["interval", "always"])
def test_a_command_that_takes_every_process(open_place: Path, isolation: str, sync: str) -> None:
    """The limit is its user's, so it takes the supervisor's threads as well."""
    prefix, variables = as_user("user", PROBE, counted=True)
    if os.geteuid() != 0:
        pytest.skip("needs a user who runs nothing else, which only root can become")
    done = subprocess.run(
        [
            *prefix, "-B", "-m", "nono_trio", "run", "-s", "--isolation", isolation,
            "--audit-sync", sync, "--resolve", "allowed.example.com:80:127.0.0.1",
            "--allow-domain", "allowed.example.com",
            "--read", str(PROBES), "--", prefix[-1], "-B", str(PROBE), "2",
        ],
        env={
            "PATH": os.environ["PATH"], "HOME": str(open_place), **variables,
            "NONO_TRIO_STATE_DIR": str(open_place / "state"),
        },
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES,) * 2),
        cwd="/", capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    took, answers = done.stdout.splitlines()
    assert took == "taken True"
    assert len(answers.split()) == 2, "the proxy's answer, and an errno"
    (session,) = (path for path in (open_place / "state" / "audit").iterdir() if path.is_dir())
    verified = subprocess.run(
        [*prefix, "-B", "-m", "nono_trio", "audit", "verify", str(session)],
        env={"PATH": os.environ["PATH"], "HOME": str(open_place), **variables},
        cwd="/", capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert verified.stdout.startswith("verified"), verified.stdout
