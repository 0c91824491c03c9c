"""Signed sessions on disk, made by the session's own writer without the loop, and their keys."""

from __future__ import annotations

import functools
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.keys.key_store import generate, key_path
from nono_trio.audit.keys.signer import SignerFailed
from nono_trio.audit.write.session_record import SessionFacts, SessionRecord
from nono_trio.audit.write.totals import Totals
from nono_trio.core.log.events import SessionStarted, encode_payload
from nono_trio.core.log.policy_json import SessionPolicy
from nono_trio.core.proof.tree import is_consistent

ID = "0123456789abcdef"
ENDED = made.SMALL[-1]
EVENTS = [made.network(number, "deny") for number in range(6)]


@functools.cache
def signer(name="one"):
    """A signer with keys of its own, the same for each name."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        return generate(Path(directory) / name)


def begin(root, signer=None, *, mode="strict", session_id=ID):
    """A live session with its first two records and the checkpoint that signs them."""
    patched, store.new_session_id = store.new_session_id, lambda: session_id
    try:
        policy = SessionPolicy(isolation="none", audit_mode=mode)
        record = SessionRecord(root, SessionFacts(["true"], policy), signer)
    finally:
        store.new_session_id = patched
    record.totals = Totals()
    add(record, SessionStarted(started=record.started, command=record.command))
    add(record, record.policy_record)
    checkpoint(record)
    return record


def add(record, *payloads):
    record.files.log.append([*map(encode_payload, payloads)])
    record.totals.add(payloads)


def checkpoint(record):
    record.files.log.file.sync()
    record.files.checkpoint(record.files.log.position(), 0)
    record.files.log.checkpointed(written=True)


def crashed(root, signer=None, **settings):
    """A session whose supervisor was lost after nine records, eight of which have a checkpoint."""
    record = begin(root, signer, **settings)
    for start in (0, 3):
        add(record, *EVENTS[start : start + 3])
        checkpoint(record)
    add(record, made.network(9, "deny"))
    record.files.close()
    return record.directory


def end(record):
    """Write the last records of a session, without its seal."""
    record.totals.exit_code = 0
    count = record.files.log.sequence + 2
    add(record, record.summarise(record.totals, count), ENDED)


def sealed(root, signer=None, **settings):
    """A sealed session of ten records."""
    record = begin(root, signer, **settings)
    for start in (0, 3):
        add(record, *EVENTS[start : start + 3])
        checkpoint(record)
    end(record)
    record.seal(ENDED, record.totals)
    if record.ledger_signer is not None:
        with suppress(SignerFailed):  # the session is sealed; the next one signs its line
            record.ledger_signer.sign()
    return record.directory


def signing_command(directory, key_file, before=""):
    """A signer as a program of its own; `before` are statements that run first, with `what`."""
    script = directory / "signer"
    script.write_text(
        f"#!{sys.executable} -B\n"
        "import sys\n"
        "from cryptography.hazmat.primitives import hashes, serialization as s\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        "what, data = sys.argv[-1], sys.stdin.buffer.read()\n"
        f"{before}\n"
        f"pem = open({str(key_file)!r}).read()\n"
        "cut = pem.index('-----BEGIN', 1)\n"
        "parts = pem[:cut].encode(), pem[cut:].encode()\n"
        "note, bundle = (s.load_pem_private_key(part, None) for part in parts)\n"
        "if what == 'public':\n"
        "    kinds = s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo\n"
        "    out = b''.join(k.public_key().public_bytes(*kinds) for k in (note, bundle))\n"
        "elif what == 'ed25519':\n"
        "    out = note.sign(data)\n"
        "else:\n"
        "    out = bundle.sign(data, ec.ECDSA(hashes.SHA256()))\n"
        "sys.stdout.buffer.write(out)\n"
    )
    os.chmod(script, stat.S_IRWXU)
    return script


def key_store_generate(state):
    """Make the default key of a state directory."""
    return generate(key_path(state, "default"))


def extends(old, new, proof):
    """Whether a consistency proof holds between two signed checkpoints of one log."""
    before, after = old.head, new.head
    return before.origin == after.origin and is_consistent(
        before.size, after.size, proof, before.root, after.root
    )
