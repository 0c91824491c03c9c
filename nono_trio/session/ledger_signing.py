"""Signs the ledger after the seal of a keyed session, and hands the checkpoint on.

Rules of this file: the session is sealed already, so a failure is warned and never changes the exit
code. All who get the checkpoint are asked at the same time. It ends by its deadline, or when the
user asks twice, whatever hangs; what is then still asked is stopped, and the next session with the
key makes up for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from trio_util import run_and_cancelling

from nono_trio.errors import NonoTrioError
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nono_trio.audit.ledger_heads import LedgerHead
    from nono_trio.audit.write.ledger_signer import Follower, LedgerSigner

# A key service may take 10 s for each of two signatures, a witness for each of two questions, and
# others hold the ledger's lock for a sync. Somebody waits for the end of the run.
END_SECONDS: Final = 60.0
STOP_SECONDS: Final = 5.0  # a program on a dead file system never starts, and can't be stopped


async def sign_ledger(
    signer: LedgerSigner, warn: Callable[[str], None], hurried: Callable[[], Awaitable[None]]
) -> None:
    """Sign and hand on, for END_SECONDS at most, or until `hurried` returns; raises nothing."""
    signing = _Signing(signer)
    reason = f"within {END_SECONDS:.0f} s"
    with trio.move_on_after(END_SECONDS, shield=True) as scope:

        async def hurry() -> None:
            nonlocal reason
            await hurried()
            reason = "because the run was asked twice to end"
            scope.cancel(reason="asked twice to end")

        async with run_and_cancelling(hurry):
            await signing.run()
    for text in signing.warnings:
        warn(f"warning: {text}")
    if scope.cancelled_caught:
        with trio.move_on_after(STOP_SECONDS, shield=True):
            await stop_signing(signer)
        warn(f"warning: {signing.missing} {reason}; the next session with the key does it")


async def stop_signing(signer: LedgerSigner) -> None:
    """End the commands of the signer, so that none outlives its session."""
    await in_thread(signer.stop, limiter=trio.CapacityLimiter(1))


class _Signing:
    """One signature of the ledger; `missing` says what was not done so far."""

    def __init__(self, signer: LedgerSigner) -> None:
        self.warnings: list[str] = []
        self.missing = "the ledger was not signed"
        self._signer = signer
        # Limiters of its own: nothing that hangs elsewhere takes its threads.
        self._threads = trio.CapacityLimiter(1 + len(signer.followers))

    async def run(self) -> None:
        """Sign, then tell all followers at once."""
        try:
            await in_thread(self._signer.sign, limiter=self._threads)
            self.missing = "the ledger's checkpoint was not handed on to all"
            if not self._signer.followers:
                return
            newest = await in_thread(self._signer.newest, limiter=self._threads)
        except NonoTrioError as error:
            hint = "" if error.hint is None else f" ({error.hint})"
            self.warnings.append(f"{error.message}{hint}")
        except OSError as error:
            reason = error.strerror or error
            self.warnings.append(f"the ledger is not signed, the next session does it: {reason}")
        else:
            if newest is not None:
                await self._tell_followers(newest)

    async def _tell_followers(self, newest: LedgerHead) -> None:
        async with trio.open_nursery() as nursery:
            for follower in self._signer.followers:
                nursery.start_soon(self._tell, follower, newest)

    async def _tell(self, follower: Follower, newest: LedgerHead) -> None:
        try:
            await in_thread(follower.publish, newest, limiter=self._threads)
        except (NonoTrioError, OSError) as error:
            self.warnings.append(str(error))
