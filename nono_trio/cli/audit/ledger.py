"""`nono-trio audit ledger`: check the ledger, and mend an end that stops every seal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nono_trio.cli.audit.public_key import public_key_option, read_public_keys
from nono_trio.cli.group import CommandGroup
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say, say_hint
from nono_trio.cli.shared_flags import audit_dir_option, audit_root, json_option, option
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean, counted
from nono_trio.cli.waiting import Waiting
from nono_trio.errors import UsageError, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.audit.recovery.ledger_repair import Repair
    from nono_trio.core.proof.witness import WitnessKey

WITNESS_KEY = "--witness-key"
FAULTS_LEFT = 1  # as `audit verify` answers for such a ledger


@click.group("ledger", cls=CommandGroup, short_help="Check or mend the ledger of sealed sessions.")
def ledger() -> None:
    """Check or mend the ledger, which has one chained line for every sealed session."""


@ledger.command(
    short_help="Check every line, link and signature.",
    epilog="Example: nono-trio audit ledger verify",
)
@public_key_option
@option(
    WITNESS_KEY,
    "witness_keys",
    multiple=True,
    metavar="NAME+ID+KEY",
    help="Check the kept cosignatures of this witness, by its verifier key; repeatable.",
)
@json_option
@audit_dir_option
def verify(
    public_key_file: str | None,
    witness_keys: tuple[str, ...],
    as_json: bool,
    audit_dir: str | None,
) -> None:
    """Check every line of the ledger, every link between them, and its signed checkpoints.

    With --public-key-file there must be a checkpoint by that key. With --witness-key there must be
    a cosignature of that witness, and all that are kept must fit the lines. `audit verify --all`
    checks that the sessions are there and match. Exit code: verified 0; tampered 1; no ledger, or
    one that can't be read, 2.
    """
    from nono_trio.audit.ledger import LEDGER, is_signed, no_ledger
    from nono_trio.audit.verify.whole_ledger import verify_ledger
    from nono_trio.cli.audit.render import verification_lines

    root = audit_root(audit_dir)
    path = root / LEDGER
    if not _is_there(path) and not is_signed(path):
        raise no_ledger(root)
    pinned = None if public_key_file is None else read_public_keys(public_key_file)
    witnesses = _witness_keys(witness_keys)
    with Waiting("verifying"):
        answer = verify_ledger(path, pinned, witnesses)
    if as_json:
        print_json(answer)
    else:
        print_verdict(verification_lines(answer, brief=True))
        if answer.ledger.chain_verified is False:  # a signature is nothing that could be mended
            say_hint("`nono-trio audit ledger repair` mends its end, if that stops a seal")
    raise SystemExit(answer.exit_code)


@ledger.command(
    short_help="Set a torn or damaged end aside.", epilog="Example: nono-trio audit ledger repair"
)
@json_option
@audit_dir_option
def repair(as_json: bool, audit_dir: str | None) -> None:
    """Set aside what follows the last good line, so that later sessions seal again.

    It is kept in ledger.torn, and a line of the ledger has its digest. No line that is good by
    itself is ever cut, and nothing before one. The session of a cut line can't be proved any more.
    Exit code: mended, or nothing to mend 0; faults in earlier lines, which stay as they are, 1; no
    ledger 2; it can't be written 4.
    """
    from nono_trio.audit.recovery.ledger_repair import repair as repair_ledger

    answer = repair_ledger(audit_root(audit_dir))
    if as_json:
        print_json(answer)
    else:
        say(_text(answer))
        if answer.first_bad is not None:
            bad = answer.first_bad
            say(f"line {bad.line} stays as it is, as evidence: {clean(bad.failure)}")
    raise SystemExit(FAULTS_LEFT if answer.first_bad is not None else 0)


def _is_there(path: Path) -> bool:
    """Return whether a file or link is there; raises LogUnreadable if this can't be found out."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise unreadable(path, error) from error
    return True


def _witness_keys(texts: Sequence[str]) -> list[WitnessKey]:
    """Return the keys, each once; raises UsageError."""
    from nono_trio.core.proof.witness import parse_witness_key

    try:
        return list(dict.fromkeys(map(parse_witness_key, texts)))
    except ValueError as error:
        raise UsageError(
            f"{WITNESS_KEY}: {error}", hint="a witness publishes its verifier key: NAME+ID+KEY"
        ) from error


def _text(answer: Repair) -> str:
    """Return what was done as one sentence."""
    if answer.completed:
        return "the ledger's last record lacked its newline only, and has it now"
    if not answer.cut_bytes:
        return f"nothing to mend: the ledger ends in a good line, {answer.event_count} in all"
    lines = f", {counted(answer.cut_lines, 'whole line')}," if answer.cut_lines else ""
    kept = clean(answer.kept_in or "")
    return f"{counted(answer.cut_bytes, 'byte')}{lines} after the last good line kept in {kept}"
