"""The log of a session with --no-audit: written and sealed as every log, and removed at the end.

Rules of this file:
- All that holds while a session runs holds here too: each record is in the log before its act.
- The log is removed as by `audit forget`, so the ledger keeps its digest and says that it was
  removed. It stays if it was not sealed, because then it tells what was lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.cli.live import say
from nono_trio.errors import AuditLost, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.config.options import AuditOptions
    from nono_trio.session.run import Finished

UNKEPT: Final = (
    "--no-audit: the log is removed at the end, so nobody can say later what was done; the ledger"
    " keeps its digest"
)


def end_of_log(audit: AuditOptions) -> Callable[[Finished], bool]:
    """Return what to do with the log of a session that has ended; that returns whether it is gone.

    Call it before the session begins.
    """
    if audit.keeps_log:
        return lambda _finished: False
    from nono_trio.audit.recovery.forget import forget  # late: few sessions

    def remove(finished: Finished) -> bool:
        if isinstance(finished.outcome.error, AuditLost):
            return False
        record = finished.record
        try:
            forget(record.directory.parent, record.session_id)
        except NonoTrioError as error:
            say(f"warning: the log of --no-audit stays: {error.message}")
            return False
        return True

    return remove
