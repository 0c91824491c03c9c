"""Chooses how the programs behind a run's records are found, and for how long.

Rule of this file: attribution never keeps a run from starting or from ending.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio
from trio_util import run_and_cancelling

from nono_trio.sandbox.attribution.attribution import ByThread
from nono_trio.sandbox.attribution.in_namespace import InNamespace

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable

    from nono_trio.audit.write.recorder import Recorder
    from nono_trio.sandbox.attribution.attribution import Attribution
    from nono_trio.sandbox.spawn import Launched

SOCKET_DIAG: Final = "socket-diag"  # the name of the launcher's netlink socket
# For hashes that are under way as the command ends: a program of a few hundred MB.
SETTLE_SECONDS: Final = 2.0


def attribution_for(
    launched: Launched,
    sockets: dict[str, socket.socket],
    recorder: Recorder,
    *,
    brokered: bool,
    wanted: bool,
    shown: Callable[[str], str] = str,
) -> Attribution | None:
    """Return the finder of a cage's programs; None if it is not wanted or not possible.

    The netlink socket is taken out of `sockets`. `brokered`: the supervisor makes the connections.
    `shown` is as Attribution has it.
    """
    diag = sockets.pop(SOCKET_DIAG, None)
    if wanted and diag is not None:
        return InNamespace(diag, launched.pid, recorder.record_lines, shown)
    if diag is not None:
        diag.close()
    if wanted and brokered and not launched.isolated:
        return ByThread(recorder.record_lines, shown)
    return None


@asynccontextmanager
async def running(attribution: Attribution | None) -> AsyncGenerator[None]:
    """Describe programs while the body runs; at its end for SETTLE_SECONDS more."""
    if attribution is None:
        yield
        return
    async with run_and_cancelling(attribution.run):
        yield
        with trio.move_on_after(SETTLE_SECONDS):
            await attribution.settle()
