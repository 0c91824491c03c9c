"""Has every use of a task of trio's inside of a step fail: no code of ours may need one there."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import trio

from nono_trio.steps import Stepped

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_task_in_steps() -> Iterator[None]:
    """In steps, `current_task` raises RuntimeError: so do scopes, locks, events and checkpoints."""
    state, step = trio.lowlevel.current_task.__globals__["GLOBAL_RUN_CONTEXT"], Stepped.step

    def without_task(one: Stepped, error: Exception | None = None) -> bool:
        if not hasattr(state, "task"):  # a step goes on with an error of its look
            return step(one, error)
        task = state.task
        del state.task
        try:
            return step(one, error)
        finally:
            state.task = task

    Stepped.step = without_task
    try:
        yield
    finally:
        Stepped.step = step
