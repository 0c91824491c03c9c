"""`nono-trio keys`: make, list and export the keys that logs are signed with."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from nono_trio.audit import store
from nono_trio.audit.keys import key_store
from nono_trio.cli.group import CommandGroup
from nono_trio.cli.json_output import print_json
from nono_trio.cli.live import say
from nono_trio.cli.parameters import PATH, GivenText
from nono_trio.cli.parts import Column
from nono_trio.cli.shared_flags import audit_dir_option, json_option
from nono_trio.cli.tables import print_table
from nono_trio.cli.text import clean
from nono_trio.core.late import late_pattern
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.note import verifier_key
from nono_trio.core.proof.tree_head import ledger_origin, session_origin
from nono_trio.errors import NonoTrioError, UsageError, path_hint
from nono_trio.posix.account import expand_home

LEDGER = "ledger"
_OWN_ID = late_pattern(r"[0-9a-f]{16}")  # of a session that could be signed

_COLUMNS = (
    Column("NAME", flexible="fold"),
    Column("KEY ID", flexible="fold"),
    Column("FILE", flexible="fold", leaves=1),
)

_id_option = click.option(
    "--id",
    "name",
    type=GivenText("a name"),
    metavar="NAME",
    help="The key of that name  [default: default]",
)
_file_option = click.option("--file", "file", type=PATH, metavar="FILE", help="A key file.")


@click.group(cls=CommandGroup)
def keys() -> None:
    """Make, list and export the keys that logs are signed with.

    A key is a pair: Ed25519 for signed checkpoints, ECDSA P-256 for upstream nono's bundle. `run
    --audit-sign-key NAME` signs with it, `audit verify --public-key-file` checks.
    """


@keys.command(
    short_help="Make a new key.", epilog="Example: nono-trio keys generate --id build-machine"
)
@_id_option
@_file_option
@json_option
@audit_dir_option
def generate(name: str | None, file: str | None, as_json: bool, audit_dir: str | None) -> None:
    """Make a new key in a file of its own (0600); a key is never replaced.

    A key with a name lies in the state directory, which no command of a cage can read.
    """
    path = _path(name, file, audit_dir)
    try:
        public = key_store.generate(path).public
    except OSError as error:
        there = next(filter(os.path.exists, path.parents))
        raise UsageError(
            f"{path} can't be made: {error.strerror or error}",
            hint=path_hint(there, error, "its directory"),
        ) from error
    if as_json:
        from nono_trio.cli.answers import GeneratedKey

        pem = public.pem()
        print_json(GeneratedKey(file=str(path), key_id=public.key_id, public_keys=pem))
        return
    say(f"key {public.key_id} is in {path}")
    named = f" --id {name}" if name else f" --file {shlex.quote(str(path))}" if file else ""
    say(f"`nono-trio keys export{clean(named)}` prints the public keys that check its logs")


@keys.command("list", short_help="List the keys.", epilog="Example: nono-trio keys list --json")
@json_option
@audit_dir_option
def list_keys(as_json: bool, audit_dir: str | None) -> None:
    """List the keys that have names."""
    root = store.state_root(audit_dir, os.environ)
    found = key_store.stored_keys(root)
    if as_json:
        from nono_trio.cli.answers import KeysAnswer, ListedKey

        rows = [
            ListedKey(
                name=one.name,
                file=str(one.path),
                key_id=one.signer.public.key_id if one.signer is not None else None,
                reason=one.reason or None,
            )
            for one in found
        ]
        print_json(KeysAnswer(keys=rows))
        return
    if not found:
        say(f"no key in {clean(str(key_store.keys_directory(root)))}")
        return
    print_table(
        _COLUMNS,
        [
            (
                clean(one.name),
                one.signer.public.key_id if one.signer is not None else clean(one.reason),
                clean(str(one.path)),
            )
            for one in found
        ],
    )


@keys.command(
    short_help="Print public keys.", epilog="Example: nono-trio keys export > audit-key.pem"
)
@_id_option
@_file_option
@click.option(
    "--vkey",
    metavar="SESSION|ledger",
    help="Print the note verifier key of a session's checkpoints, or of the ledger's, which Go's"
    " sumdb/note and other tools take.",
)
@json_option
@audit_dir_option
def export(
    name: str | None, file: str | None, vkey: str | None, as_json: bool, audit_dir: str | None
) -> None:
    """Print the two public keys in PEM, the notes' first: what --public-key-file takes."""
    path = _existing_path(name, file, audit_dir)
    public = key_store.load_key("--file" if file is not None else "--id", str(path)).public
    text = public.pem()
    if vkey is not None:
        origin = ledger_origin(public.note)
        if vkey != LEDGER:
            origin = session_origin(_session_id(vkey, audit_dir))
        text = verifier_key(origin, public.note) + "\n"
    if as_json:
        from nono_trio.cli.answers import ExportedKey

        print_json(
            ExportedKey(
                key_id=public.key_id,
                note_key=base64_text.encode(public.note),
                bundle_key=base64_text.encode(public.bundle),
                vkey=text.strip() if vkey is not None else None,
            )
        )
        return
    sys.stdout.write(text)
    sys.stdout.flush()


def _session_id(session: str, audit_dir: str | None) -> str:
    root = store.audit_root(store.state_root(audit_dir, os.environ))
    try:
        return store.find_session(root, session).name
    except NonoTrioError:
        if _OWN_ID.fullmatch(session):  # of a session on another machine
            return session
        raise


def _existing_path(name: str | None, file: str | None, audit_dir: str | None) -> Path:
    """Return the file of the key that is meant: without a name also the only one that there is."""
    path = _path(name, file, audit_dir)
    if path.exists():
        return path
    root = store.state_root(audit_dir, os.environ)
    names = [one.name for one in key_store.stored_keys(root)] if file is None else []
    if name is None and len(names) == 1:
        return key_store.key_path(root, names[0])
    made = f" --id {shlex.quote(name)}" if name is not None else ""
    made = f" --file {shlex.quote(file)}" if file is not None else made
    hint = f"nono-trio keys generate{made}"
    if names:
        hint = f"nono-trio keys export --id {clean(names[0])}"
    shown = ", ".join(map(clean, names))
    reason = f", there are {shown}" if names else ""
    raise UsageError(f"there is no key {clean(str(path))}{reason}", hint=hint)


def _path(name: str | None, file: str | None, audit_dir: str | None) -> Path:
    if name is not None and file is not None:
        raise click.UsageError("--id and --file exclude each other")
    if file is not None:
        return Path(os.path.abspath(expand_home(file)))
    root = store.state_root(audit_dir, os.environ)
    return key_store.key_path(root, name or key_store.DEFAULT_NAME)
