"""Work beside a block, which ends with the block."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def run_beside(
    function: Callable[..., Awaitable[object]], *arguments: object
) -> AsyncIterator[None]:
    """Run `function` while the body runs, and cancel it at the end of the body.

    An error of either cancels the other, and leaves in a group, as from every nursery.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function, *arguments)
        yield
        nursery.cancel_scope.cancel(reason="the block has ended")
