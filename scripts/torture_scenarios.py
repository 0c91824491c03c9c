"""The scenarios of scripts/torture: how a session is tortured, and how often in one round.

A scenario is a function of a `World`; it yields each session that it started, once its torture is
over; who takes it checks it before the next one.
"""

from __future__ import annotations

import resource
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torture_faults import Fault
from torture_session import HANG_SECONDS, Origin, Tortured

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

KILLS = 10  # of one round
CROWD = 24
SMALL = 9  # requests of a session that is run once for each of its writes
MOST_WRITES = 200  # far more than a small session makes
STUCK_SECONDS = 12.0  # longer than the product waits for a disk
MIB = 1024 * 1024
BREAKS = 80  # MiB


@dataclass
class World:
    """The surroundings of a scenario in round `number`; `random` is its own."""

    base: Path
    origin: Origin
    random: random.Random
    number: int = 0

    def session(self, **settings: object) -> Tortured:
        """Make and start one."""
        made = Tortured(self.base, self.origin, **settings)
        made.start()
        return made

    def mode(self) -> tuple[str, ...]:
        """An audit mode and a sync, by chance."""
        sync = self.random.choice(["always", "interval", "never"])
        return ("--audit-mode", "strict", "--audit-sync", sync)


def kill(world: World) -> Iterator[Tortured]:
    """SIGKILL at KILLS instants of a session's life, which is measured first."""
    whole = world.session()
    began = time.monotonic()
    whole.process.wait(HANG_SECONDS)
    life = time.monotonic() - began
    yield whole
    for _ in range(KILLS):
        made = world.session(options=world.mode())
        time.sleep(world.random.uniform(0, life * 1.1))
        made.kill()
        yield made


def full(world: World) -> Iterator[Tortured]:
    """No space from the n-th write on, for every n of a small session."""
    mode = ("--audit-mode", ("strict", "best-effort")[world.number % 2])
    for number in range(1, MOST_WRITES):
        fault = Fault("", call="write", first=number, error="ENOSPC")
        made = world.session(fault=fault, options=mode, requests=SMALL, threads=1)
        yield made
        if not made.has_fired:
            return
    raise AssertionError(f"more than {MOST_WRITES} writes")


def once(world: World) -> Iterator[Tortured]:
    """The n-th write alone fails, of n by chance; the writes after it succeed."""
    first = world.random.randrange(1, 30)
    error = world.random.choice(["ENOSPC", "EIO", "EDQUOT"])
    fault = Fault("", call="write", first=first, end=first + 1, error=error)
    yield world.session(fault=fault, options=world.mode())


def begin(world: World) -> Iterator[Tortured]:
    """Each of the first writes alone fails, in the mode that goes on."""
    for first in range(1, 4):
        fault = Fault("", call="write", first=first, end=first + 1, error="ENOSPC")
        mode = ("--audit-mode", "best-effort")
        yield world.session(fault=fault, options=mode, requests=SMALL)


def short(world: World) -> Iterator[Tortured]:
    """Writes take a few bytes each."""
    most = world.random.choice([1, 7, 100, 1000])
    requests = SMALL if most == 1 else 30
    yield world.session(
        fault=Fault("", call="write", most=most), options=world.mode(), requests=requests
    )


def sync(world: World) -> Iterator[Tortured]:
    """The n-th sync and all later ones fail."""
    fault = Fault("", call="fdatasync", first=world.random.randrange(1, 6), error="EIO")
    yield world.session(fault=fault, options=("--audit-sync", "always"))


def slow(world: World) -> Iterator[Tortured]:
    """Every write and sync takes some milliseconds."""
    call = world.random.choice(["write", "fdatasync"])
    fault = Fault("", call=call, seconds=world.random.uniform(0.001, 0.05))
    yield world.session(fault=fault, options=world.mode())


def stuck(world: World) -> Iterator[Tortured]:
    """One write or sync returns only after the product has stopped to wait for it."""
    call = world.random.choice(["write", "fdatasync"])
    first = world.random.randrange(1, 12)
    fault = Fault("", call=call, first=first, end=first + 1, seconds=STUCK_SECONDS)
    yield world.session(fault=fault, options=world.mode())


def size(world: World) -> Iterator[Tortured]:
    """The largest size of a file is reached: the kernel makes real short writes."""
    most = world.random.randrange(1, 24 * 1024)
    yield world.session(limits=((resource.RLIMIT_FSIZE, most),), requests=90)


def descriptors(world: World) -> Iterator[Tortured]:
    """Few descriptors for all processes of the session."""
    yield world.session(
        limits=((resource.RLIMIT_NOFILE, world.random.randrange(8, 160)),), threads=16, requests=90
    )


def memory(world: World) -> Iterator[Tortured]:
    """Little address space; below BREAKS CPython fails with errors of its own."""
    most = world.random.randrange(30, 400)
    yield world.session(limits=((resource.RLIMIT_AS, most * MIB),), may_break=most < BREAKS)


def clock(world: World) -> Iterator[Tortured]:
    """The wall clock jumps by seconds to years between two looks at it."""
    jumps = [world.random.choice([-1, 1]) * 10 ** world.random.uniform(0, 8.5) for _ in range(7)]
    yield world.session(fault=Fault("", jumps=jumps), options=world.mode())


def stop(world: World) -> Iterator[Tortured]:
    """SIGSTOP and SIGCONT to the supervisor, again and again."""
    made = world.session(options=world.mode(), requests=90)
    for _ in range(12):
        time.sleep(world.random.uniform(0, 0.08))
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGSTOP)
            time.sleep(world.random.uniform(0, 0.05))
            made.process.send_signal(signal.SIGCONT)
    yield made


def crowd(world: World) -> Iterator[Tortured]:
    """CROWD sessions at once; every third is killed."""
    made = [world.session(options=world.mode()) for _ in range(CROWD)]
    for one in made[::3]:
        time.sleep(world.random.uniform(0, 0.2))
        one.kill()
    yield from made


SCENARIOS: dict[str, Callable[[World], Iterator[Tortured]]] = {
    one.__name__: one
    for one in (
        kill, full, once, begin, short, sync, slow, stuck, size, descriptors, memory, clock, stop,
        crowd,
    )
}  # fmt: skip
