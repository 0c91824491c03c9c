"""`nono-trio audit prove`, `check-proof` and `consistency`: proofs that need no log."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from nono_trio.audit import store
from nono_trio.audit.ledger import LEDGER as LEDGER_FILE
from nono_trio.cli.audit.public_key import public_key_option, read_public_keys
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.output_file import STDOUT, output_file, output_place, require_output
from nono_trio.cli.parameters import PATH, WholeNumber
from nono_trio.cli.shared_flags import (
    audit_dir_option,
    audit_root,
    complete_sessions,
    json_option,
    session_directory,
)
from nono_trio.cli.style import print_verdict
from nono_trio.cli.text import clean
from nono_trio.errors import JSON_SCHEMA, LogUnreadable, UsageError, unreadable
from nono_trio.posix.safe_open import read_whole

if TYPE_CHECKING:
    from nono_trio.audit.verify.proofs import ProofFailed, SignedHead
    from nono_trio.core.proof.tree_head import TreeHead

LEDGER = "ledger"  # in place of a session
REFUTED = 1  # as `audit verify` answers for a tampered session


@click.command(
    short_help="Write a proof that a record is in a signed log.",
    epilog="Example: nono-trio audit prove latest 7 -o record-7.tlog-proof",
)
@click.argument("session", shell_complete=complete_sessions)
@click.argument("sequence", type=WholeNumber(0))
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write FILE instead of stdout.")
@json_option
@audit_dir_option
def prove(
    session: str, sequence: int, output: str | None, as_json: bool, audit_dir: str | None
) -> None:
    """Write a proof that a record is in a signed log: a tlog-proof file (C2SP), with the record.

    Whoever has the file and the public key can check it (`audit check-proof`) without the log.
    Exit code: 0; 1 if the log is not the one that was signed; 2 without a signature over it.
    """
    from nono_trio.audit.verify.proofs import ProofFailed, prove_record

    root = audit_root(audit_dir)
    directory = session_directory(root, session)
    if output is not None and output != STDOUT:
        require_output(output, root, replace=True)
    try:
        data = prove_record(directory, sequence).encode()
    except ProofFailed as failed:
        _refute(failed, as_json=as_json)
    if output is None and as_json:
        print_json({"schema": JSON_SCHEMA, "proof": data.decode("utf-8")})
        return
    if output is None or output == STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    with output_file(output, replace=True) as file:
        file.write(data)
    if as_json:
        print_json({"schema": JSON_SCHEMA, "file": str(output_place(output)), "bytes": len(data)})


@click.command(
    "check-proof",
    short_help="Check a proof of a record, without its log.",
    epilog="Example: nono-trio audit check-proof record-7.tlog-proof --public-key-file key.pem",
)
@click.argument("proof", type=PATH)
@public_key_option
@json_option
def check_proof(proof: str, public_key_file: str | None, as_json: bool) -> None:
    """Check a proof of a record: its signed checkpoint, and that the signed tree has the record.

    It needs the file and the public keys, nothing else. The record is printed. Exit code: proved
    0; refuted 1; no proof 2.
    """
    from nono_trio.audit.verify.proofs import ProofFailed, check_record
    from nono_trio.core.proof.proof_file import MAX_PROOF

    if public_key_file is None:
        raise UsageError(
            "expected --public-key-file: a proof is only as good as the key",
            hint="`nono-trio keys export` prints it, on the machine that signed",
        )
    keys = read_public_keys(public_key_file)
    try:
        found = check_record(_read(proof, MAX_PROOF), keys.note)
    except ProofFailed as failed:
        _refute(failed, as_json=as_json)
    record = found.event_json.decode("utf-8", "replace")
    if as_json:
        print_json(
            {
                "schema": JSON_SCHEMA,
                "verdict": "proved",
                "session_id": found.session_id,
                "sequence": found.sequence,
                "size": found.size,
                "key_id": keys.key_id,
                "event_json": record,
            }
        )
        return
    print_verdict(
        [
            f"proved: record {found.sequence} of session {clean(found.session_id)}, of"
            f" {found.size} signed",
            f"  key     {keys.key_id}",
            f"  record  {clean(record)}",
        ]
    )


@click.command(
    short_help="Prove that a log only grew between two signed checkpoints.",
    epilog="Example: nono-trio audit consistency yesterday.tlog-proof 89139b466fe900c5",
)
@click.argument("old")
@click.argument("new")
@public_key_option
@json_option
@audit_dir_option
def consistency(
    old: str, new: str, public_key_file: str | None, as_json: bool, audit_dir: str | None
) -> None:
    """Prove that a log only grew since a signed checkpoint that you kept.

    OLD is that checkpoint: a note, a tlog-proof, or a copy of a checkpoints.ndjson or of a
    ledger-checkpoints.ndjson. NEW is a session, `ledger`, or a file with a later checkpoint; the
    log itself must be here. Two copies of a ledger are compared line for line. Without
    --public-key-file the key is the one that the session or the ledger's checkpoints name. Exit
    code: consistent 0; rollback, fork or a bad signature 1; unreadable 2.
    """
    from nono_trio.audit.verify import proofs
    from nono_trio.core.proof.tree_head import session_of

    root = audit_root(audit_dir)
    try:
        if Path(old).is_file() and proofs.is_ledger_file(Path(old)):
            later = root / LEDGER_FILE if new == LEDGER else Path(new)
            before, after = proofs.prove_ledger_extension(Path(old), later)
            answer: dict[str, Any] = {"origin": "ledger", "old_size": before, "new_size": after}
        else:
            answer = _compare(root, old, new, public_key_file)
    except proofs.ProofFailed as failed:
        _refute(failed, as_json=as_json)
    except OSError as error:
        raise unreadable(str(error.filename or old), error) from error
    if as_json:
        print_json({"schema": JSON_SCHEMA, "verdict": "consistent", **answer})
        return
    lines = "lines" if session_of(answer["origin"]) is None else "records"
    print_verdict(
        [
            f"consistent: {clean(answer['origin'])} grew from {answer['old_size']} to"
            f" {answer['new_size']} {lines}"
        ]
    )


def _compare(root: Path, old: str, new: str, public_key_file: str | None) -> dict[str, Any]:
    from nono_trio.audit.verify import proofs
    from nono_trio.core.proof.tree_head import LEDGER_ORIGIN, session_of

    earlier = _head(root, old)
    if earlier.head.origin.startswith(LEDGER_ORIGIN):
        return _compare_ledger(root, earlier, old, new, public_key_file)
    if new == LEDGER:
        kept = session_of(earlier.head.origin) or "SESSION"
        raise UsageError(
            f"expected a session beside a checkpoint of session {kept}, got the ledger",
            hint=f"nono-trio audit consistency {shlex.quote(old)} {shlex.quote(kept)}",
        )
    later, named = _later(root, new)
    session_id = session_of(later.head.origin)
    if session_id is None:
        raise LogUnreadable(
            f"expected a checkpoint of a session, got one of {later.head.origin}",
            hint="two checkpoints are compared if they are of one session, or of the ledger",
        )
    directory = named or root / session_id
    key = (
        _named_key(directory) if public_key_file is None else read_public_keys(public_key_file).note
    )
    for head in (earlier, later):
        head.require_signature(key)
    hashes = proofs.prove_extension(earlier, later, directory)
    return _growth(earlier.head, later.head, hashes, pinned=public_key_file is not None)


def _compare_ledger(
    root: Path, earlier: SignedHead, old: str, new: str, public_key_file: str | None
) -> dict[str, Any]:
    from nono_trio.audit.verify import ledger_proofs, proofs

    if public_key_file is not None:
        key = read_public_keys(public_key_file).note
        if ledger_proofs.is_checkpoints_file(Path(old)):  # perhaps with lines of other keys
            earlier = ledger_proofs.last_head(Path(old), key)
    else:
        named = ledger_proofs.key_of(root, earlier.head.origin, Path(old))
        if named is None:
            raise LogUnreadable(
                f"nothing here names the key of {clean(earlier.head.origin)}",
                hint="give the key that you know: --public-key-file FILE",
            )
        say("warning: the key is the one that the ledger names (--public-key-file pins another)")
        key = named
    earlier.require_signature(key)
    path, later = Path(new), None
    if new == LEDGER:
        path = root / LEDGER_FILE
    elif not path.is_file():
        raise UsageError(
            f"expected `ledger` or a file beside a checkpoint of the ledger, got {new!a}",
            hint=f"nono-trio audit consistency {shlex.quote(old)} {LEDGER}",
        )
    elif not proofs.is_ledger_file(path):
        is_row = ledger_proofs.is_checkpoints_file(path)
        later = ledger_proofs.last_head(path, key) if is_row else proofs.read_head(path)
        later.require_signature(key)
        path = ledger_proofs.ledger_of(root, path)
    grew = ledger_proofs.prove_ledger_growth(earlier, path, later)
    return _growth(grew.before, grew.after, grew.proof, pinned=public_key_file is not None)


def _growth(
    before: TreeHead, after: TreeHead, hashes: list[bytes], *, pinned: bool
) -> dict[str, Any]:
    from nono_trio.core.proof import base64_text

    return {
        "origin": after.origin,
        "old_size": before.size,
        "new_size": after.size,
        "old_root": base64_text.encode(before.root),
        "new_root": base64_text.encode(after.root),
        "proof": [base64_text.encode(one) for one in hashes],
        "pinned": pinned,
    }


def _head(root: Path, named: str) -> SignedHead:
    """Return the last signed checkpoint of a session, or the one in a file."""
    from nono_trio.audit.verify import ledger_proofs, proofs

    if Path(named).is_file():
        if ledger_proofs.is_checkpoints_file(Path(named)):
            return ledger_proofs.last_head(Path(named))
        return proofs.read_head(Path(named))
    try:
        directory = session_directory(root, named)
    except LogUnreadable as error:
        if error.__cause__ is not None:  # the sessions can't be listed
            raise
        raise LogUnreadable(
            f"expected a session or a file with a signed checkpoint, got {named!a}, which is none",
            hint="keep a copy of a session's checkpoints.ndjson, or of ledger-checkpoints.ndjson",
        ) from None
    return proofs.last_signed_head(directory)


def _later(root: Path, named: str) -> tuple[SignedHead, Path | None]:
    """Return the last signed checkpoint of NEW, and its directory if it is a session.

    A name of a session means that session: never a file or a directory that lies under the same
    name where the command is called.
    """
    from nono_trio.audit.verify import proofs

    found = store.find_session(root, named)
    if found.is_dir():
        return proofs.last_signed_head(found), found
    return _head(root, str(found)), None


def _named_key(directory: Path) -> bytes:
    from nono_trio.audit.verify.signatures import SignatureCheck

    keys = SignatureCheck.of(directory).keys
    if keys is None:
        raise LogUnreadable(
            f"the policy of {directory} names no key",
            hint="give the key that you know: --public-key-file FILE",
        )
    say("warning: the key is the one that the session names (--public-key-file pins another)")
    return keys.note


def _read(path: str, limit: int) -> bytes:
    try:
        return read_whole(Path(path), limit)
    except OSError as error:
        raise unreadable(path, error) from error


def _refute(failed: ProofFailed, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json(
            {
                "schema": JSON_SCHEMA,
                "verdict": "refuted",
                "first_bad": {
                    "class": failed.failure,
                    "expected": failed.expected,
                    "got": failed.got,
                },
            }
        )
    else:
        print_verdict(
            [
                f"refuted: {failed.failure}",
                f"  expected {clean(failed.expected)}",
                f"  got      {clean(failed.got)}",
            ]
        )
    raise SystemExit(REFUTED)
