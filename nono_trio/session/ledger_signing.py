"""Signs the ledger after the seal of a keyed session, and hands the checkpoint on.

Rules of this file: the session is sealed already, so a failure is warned and never changes the exit
code. It ends by its deadline, whatever hangs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from nono_trio.errors import NonoTrioError
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.write.ledger_signer import LedgerSigner


async def sign_ledger(
    signer: LedgerSigner, warn: Callable[[str], None], reading_seconds: float
) -> None:
    """Sign and hand on, within the signer's time and `reading_seconds` more; raises nothing."""
    seconds = reading_seconds + signer.seconds
    warnings: list[str] = []
    with trio.move_on_after(seconds, shield=True) as scope:
        try:
            one = trio.CapacityLimiter(1)
            await in_thread(signer.sign, limiter=one)
            await in_thread(signer.publish, warnings.append, limiter=one)
        except NonoTrioError as error:
            hint = "" if error.hint is None else f" ({error.hint})"
            warnings.append(f"warning: {error.message}{hint}")
        except OSError as error:
            reason = error.strerror or error
            warnings.append(
                f"warning: the ledger is not signed, the next session does it: {reason}"
            )
    for text in warnings:
        warn(text)
    if scope.cancelled_caught:
        warn(f"warning: the ledger was not signed and handed on within {seconds:.0f} s")
