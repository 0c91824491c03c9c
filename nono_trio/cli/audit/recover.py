"""The output of `audit recover`: one line a session, with what was cut and what to do next."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.audit.read.status import status_of
from nono_trio.audit.recovery.abandoned import Abandoned, remove_abandoned
from nono_trio.audit.recovery.recover import EXIT_CODES, recover
from nono_trio.cli.audit.cleanup import tell_stuck
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean, counted
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import JSON_SCHEMA, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.audit.recovery.recover import Outcome, Recovery

# Tampering beats what could not be sealed, that what can't be read, that what still runs.
_WORST_FIRST: tuple[Outcome, ...] = ("tampered", "failed", "unreadable", "running")


def recover_sessions(
    root: Path, directory: Path | None, *, as_json: bool, signer: Signer | None = None
) -> int:
    """Recover one session, or every crashed one, and say so; return the exit code.

    `signer` signs the ends of its sessions.
    """
    chosen = [directory] if directory is not None else list(_crashed(root))
    outcomes, ledgers = set(), set[Path]()
    with Waiting("recovering") as wait:
        wait.expect(len(chosen))
        for answer in wait.over(map(partial(recover, signer=signer), chosen)):
            if directory is None and not os.path.lexists(answer.path):
                continue  # another command removed it meanwhile
            outcomes.add(answer.outcome)
            if answer.signed:
                ledgers.add(Path(answer.path).resolve().parent)
            _tell(answer, as_json=as_json)
    if signer is not None:
        for one in ledgers:
            _sign_ledger(one, signer)
    left = remove_abandoned(root) if directory is None else Abandoned(0, [])
    if left.removed:
        say(f"removed what {counted(left.removed, 'killed start or removal')} left")
    tell_stuck(left.stuck)
    if not outcomes and as_json:
        print_json({"schema": JSON_SCHEMA, "session_id": None, "outcome": "none"})
    elif not outcomes:
        say(f"no crashed session in {clean(str(root))}")
    code = next((EXIT_CODES[outcome] for outcome in _WORST_FIRST if outcome in outcomes), 0)
    return code or int(bool(left.stuck))


def _sign_ledger(root: Path, signer: Signer) -> None:
    """Sign the new lines of the ledger, as a run does after its seal; a failure loses nothing."""
    from nono_trio.audit.write.ledger_signer import LedgerSigner

    try:
        LedgerSigner(root, signer).sign()
    except (NonoTrioError, OSError) as error:
        reason = error.message if isinstance(error, NonoTrioError) else str(error.strerror or error)
        say(f"warning: the ledger is not signed, the next session does it: {clean(reason)}")


def _crashed(root: Path) -> Iterator[Path]:
    for session in store.sessions(root):
        if status_of(session.directory, session.summary) == "crashed":
            yield session.directory


def _tell(answer: Recovery, *, as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    print_verdict([f"{answer.outcome:<11} {clean(answer.session_id)}  {_text(answer)}"])
    sys.stdout.flush()
    hint = _hint(answer)
    if hint is not None:
        say_hint(hint)


def _text(answer: Recovery) -> str:
    """Return the outcome as one sentence."""
    records = counted(answer.event_count, "record")
    if answer.outcome == "sealed":
        return f"{records}, sealed before: nothing to do"
    if answer.outcome == "recovered":
        known = "" if answer.exit_code_known else "; how the command ended is not known"
        unsigned = "; its end is not signed" if answer.signed is False else ""
        return f"{records}, sealed now, {_cut_text(answer)}{known}{unsigned}"
    if answer.outcome == "tampered" and answer.first_bad is not None:
        return f"left as it is: {clean(answer.first_bad.failure)} after {records}"
    return clean(answer.reason or "not recovered")


def _cut_text(answer: Recovery) -> str:
    if not answer.torn_bytes:
        return "no record was torn"
    return f"{counted(answer.torn_bytes, 'byte')} of a torn record kept in {store.LOG}{store.TORN}"


def _hint(answer: Recovery) -> str | None:
    name = answer.session_id
    if answer.outcome == "recovered":
        if answer.hint is not None:
            return answer.hint
        return f"`nono-trio audit verify {name}` proves it"
    if answer.outcome == "sealed":
        return f"the log was not read: `nono-trio audit verify {name}` checks it"
    if answer.outcome == "tampered":
        return f"`nono-trio audit verify {name}` says where; keep its files as evidence"
    if answer.outcome == "running":
        return f"`nono-trio stop {name}` ends it"
    if answer.outcome == "failed":
        return answer.hint or "when the cause is gone, recover it again: nothing was lost"
    return answer.hint
