"""Signed checkpoints of the ledger: what is signed, and each forgery by its name."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
import signed_session as signed

from nono_trio.audit import ledger as ledgers
from nono_trio.audit import ledger_heads
from nono_trio.audit.recovery.ledger_repair import repair
from nono_trio.audit.verify import ledger_proofs, proofs
from nono_trio.audit.verify.whole_ledger import verify_ledger
from nono_trio.audit.write import ledger_append
from nono_trio.audit.write.ledger_signer import LedgerSigner
from nono_trio.cli.main import exit_code
from nono_trio.core.log.ledger_checkpoint import decode_ledger_checkpoint
from nono_trio.core.log.ledger_record import decode_ledger_record, encode_ledger_record
from nono_trio.core.log.ledger_record import ledger_chain_hash as chain_hash
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.tree import leaf_hash, tree_root
from nono_trio.errors import AuditLost

KEY, OTHER = signed.signer(), signed.signer("other")
DIGEST, TIME = "ab" * 32, "2026-01-01T00:00:00Z"


@pytest.fixture
def root(tmp_path):
    """A state directory whose ledger has four lines, signed at two, three and four."""
    root = tmp_path / "audit"
    root.mkdir()
    ledger_append.append(root, "unkeyed", DIGEST, TIME)
    for number in range(3):
        add(root, f"s{number}")
    return root


def add(root, session_id, key=KEY):
    ledger_append.append(root, session_id, DIGEST, TIME)
    return LedgerSigner(root, key).sign()


def ledger_of(root):
    return root / ledgers.LEDGER


def checkpoints_of(root):
    return root / ledgers.LEDGER_CHECKPOINTS


def judge(root, pinned=None):
    return verify_ledger(ledger_of(root), pinned)


def failure(root, pinned=KEY.public):
    """The class of the first fault, the same with and without a pinned key."""
    found = judge(root, pinned)
    assert found.verdict == "tampered"
    if pinned is KEY.public:
        assert judge(root).first_bad == found.first_bad
    return found.first_bad.failure


def rewrite(root, place, session_id="evil"):
    """Rewrite a line, and every hash after it."""
    records = [*map(decode_ledger_record, ledger_of(root).read_bytes().splitlines())]
    head, out = None, b""
    for number, record in enumerate(records):
        named = session_id if number == place else record.session_id
        chain = chain_hash(head, number, named, record.session_digest, record.completed_at)
        out += encode_ledger_record(
            msgspec.structs.replace(record, prev_chain=head, session_id=named, chain_hash=chain)
        )
        head = chain
    ledger_of(root).write_bytes(out)


def cut(path, count):
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:count]))


def test_each_checkpoint_signs_every_line_before_it(root):
    lines = ledger_of(root).read_bytes().split(b"\n")[:-1]
    heads = list(ledger_heads.read_heads(checkpoints_of(root)))
    assert [one.head.size for one in heads] == [2, 3, 4]
    for one in heads:
        assert one.head.root == tree_root([*map(leaf_hash, lines[: one.head.size])])
        assert one.key == KEY.public.note
    answer = judge(root, KEY.public)
    assert (answer.verdict, answer.attestation.signed_through) == ("verified", 3)
    assert answer.attestation.pinned
    assert not judge(root).attestation.pinned
    ledger_append.append(root, "unkeyed2", DIGEST, TIME)
    assert judge(root, KEY.public).notes[-1] == "not signed yet: 1 line after that"
    assert LedgerSigner(root, KEY).sign().event_count == 5
    assert LedgerSigner(root, KEY).sign() is None
    assert (checkpoints_of(root).stat().st_mode & 0o777) == 0o600


def test_two_keys_have_two_origins(root):
    add(root, "theirs", OTHER)
    add(root, "ours")
    for key in (KEY, OTHER):
        assert judge(root, key.public).verdict == "verified"
    assert judge(root, OTHER.public).attestation.signed_through == 4
    stranger = signed.signer("third").public
    assert failure(root, stranger) == "ledger key mismatch"


def test_a_ledger_that_is_cut_behind_a_checkpoint(root):
    cut(ledger_of(root), 3)
    assert failure(root) == "ledger truncated behind a signed checkpoint"
    with pytest.raises(AuditLost, match="has 3 lines, and this key has signed 4"):
        LedgerSigner(root, KEY).sign()
    add_unsigned = ledger_append.append(root, "new", DIGEST, TIME)
    assert add_unsigned.sequence == 3
    with pytest.raises(AuditLost, match="are not those that this key has signed"):
        LedgerSigner(root, KEY).sign()
    assert failure(root) == "ledger rewritten behind a signed checkpoint"
    ledger_of(root).unlink()
    assert failure(root) == "ledger truncated behind a signed checkpoint"


@pytest.mark.parametrize("place", range(4))
def test_a_rewritten_line_whose_chain_fits(root, place):
    rewrite(root, place)
    assert ledgers.verify(root).first_bad is None
    assert failure(root) == "ledger rewritten behind a signed checkpoint"


def test_two_histories_under_one_key_and_a_row_that_goes_back(root, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(root, theirs)
    cut(ledger_of(theirs), 3)
    cut(checkpoints_of(theirs), 2)
    assert judge(theirs, KEY.public).verdict == "verified"  # only a kept checkpoint finds that
    add(theirs, "another")
    add(theirs, "and more")
    fourth = checkpoints_of(root).read_bytes().splitlines(keepends=True)[-1]
    mine = checkpoints_of(theirs).read_bytes().splitlines(keepends=True)
    checkpoints_of(theirs).write_bytes(b"".join([*mine[:2], fourth, *mine[2:]]))
    assert failure(theirs) == "ledger fork"
    checkpoints_of(theirs).write_bytes(b"".join([*mine, mine[0]]))
    assert failure(theirs) == "ledger rollback"


def test_every_changed_byte_of_the_checkpoints_is_noticed(root):
    data = checkpoints_of(root).read_bytes()
    for place in range(0, len(data) - 1, 5):
        changed = bytearray(data)
        changed[place] ^= 1
        checkpoints_of(root).write_bytes(changed)
        assert judge(root).verdict == "tampered"
    checkpoints_of(root).write_bytes(data.replace(b'"v":1', b'"v": 1', 1))
    assert failure(root) == "ledger line not canonical"


def test_stripped_checkpoints_are_missed_with_a_pinned_key_only(root):
    checkpoints_of(root).unlink()
    assert judge(root).verdict == "verified"
    assert failure(root, OTHER.public) == "ledger signature missing"


def test_a_checkpoint_that_names_another_key_is_refused(root):
    line = checkpoints_of(root).read_bytes().splitlines(keepends=True)[-1]
    theirs = line.replace(
        base64_text.encode(KEY.public.note).encode(), base64_text.encode(OTHER.public.note).encode()
    )
    checkpoints_of(root).write_bytes(theirs)
    assert failure(root, None) == "ledger key mismatch"


def test_a_torn_checkpoint_is_set_aside_and_the_next_one_signs_all(root):
    with checkpoints_of(root).open("ab") as file:
        file.write(b'{"v":1,"ti')
    assert judge(root, KEY.public).verdict == "verified"
    add(root, "next")
    assert judge(root, KEY.public).attestation.signed_through == 4
    assert b'{"v":1,"ti\n' in (root / ledger_append.TORN).read_bytes()


@pytest.mark.parametrize("torn", [b'{"sequ', b"x\nyy\n", b"\n"])
def test_a_mended_tail_keeps_the_tree(root, torn):
    """A torn tail was never signed; damaged lines after the last signed one neither."""
    with ledger_of(root).open("ab") as file:
        file.write(torn)
    repair(root)
    assert judge(root, KEY.public).verdict == "verified"
    add(root, "after")
    assert judge(root, KEY.public).verdict == "verified"
    heads = list(ledger_heads.read_heads(checkpoints_of(root)))
    assert proofs.parse_head(heads[-1].note).head.size == ledgers.verify(root).count


def test_a_repair_that_cuts_a_signed_line_does_not_hide_it(root):
    data = ledger_of(root).read_bytes()
    ledger_of(root).write_bytes(data[:-10] + b"x" + data[-9:])
    repair(root)
    assert ledgers.verify(root).first_bad is None
    assert failure(root) == "ledger rewritten behind a signed checkpoint"


def test_a_session_that_signs_meanwhile_is_not_overtaken(root):
    """The signer works without the lock: the checkpoint of the slower one is left out."""

    class Slow:
        public = KEY.public

        def sign_note(self, data):
            if not self.signed:
                self.signed = True
                add(root, "faster")
            return KEY.sign_note(data)

        signed = False

    ledger_append.append(root, "slower", DIGEST, TIME)
    assert LedgerSigner(root, Slow()).sign() is None
    assert judge(root, KEY.public).attestation.signed_through == 5


@pytest.fixture
def call(root, capsys):
    """Run a command of `audit`; returns its exit code and the last line of its JSON."""

    def run(*arguments):
        code = exit_code(["audit", *map(str, arguments), "--json", "--audit-dir", str(root.parent)])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def test_a_kept_checkpoint_shows_whether_a_ledger_only_grew(root, tmp_path, call):
    key, note, kept = tmp_path / "key.pem", tmp_path / "kept.note", tmp_path / "kept.ndjson"
    key.write_text(KEY.public.pem())
    shutil.copy(checkpoints_of(root), kept)
    row = checkpoints_of(root).read_bytes().splitlines()
    note.write_text(decode_ledger_checkpoint(row[1]).note)
    add(root, "later")
    pin = ["--public-key-file", key]
    for old, size in ((note, 3), (kept, 4)):
        for new in ("ledger", ledger_of(root), checkpoints_of(root)):
            for pinned in ([], pin):
                code, answer = call("consistency", old, new, *pinned)
                assert (code, answer["verdict"]) == (0, "consistent")
                assert (answer["old_size"], answer["new_size"]) == (size, 5)
    other = tmp_path / "other.pem"
    other.write_text(OTHER.public.pem())
    code, answer = call("consistency", note, "ledger", "--public-key-file", other)
    assert (code, answer["first_bad"]["class"]) == (1, "key mismatch")
    fresh = tmp_path / "fresh.ndjson"
    shutil.copy(checkpoints_of(root), fresh)
    code, answer = call("consistency", fresh, kept, *pin)
    assert (code, answer["first_bad"]["class"]) == (1, "rollback")

    cut(ledger_of(root), 3)  # the forger takes the ledger back, with its checkpoints
    cut(checkpoints_of(root), 2)
    assert judge(root, KEY.public).verdict == "verified"
    code, answer = call("consistency", kept, "ledger", *pin)
    assert (code, answer["first_bad"]["class"]) == (1, "rollback")
    add(root, "forged")
    code, answer = call("consistency", kept, "ledger", *pin)
    assert (code, answer["first_bad"]["class"]) == (1, "fork")


def test_the_commands_check_the_signatures(root, tmp_path, call):
    key = tmp_path / "key.pem"
    key.write_text(KEY.public.pem())
    pin = ["--public-key-file", key]
    assert call("ledger", "verify", *pin)[0] == 0
    rewrite(root, 1)
    code, answer = call("ledger", "verify", *pin)
    assert (code, answer["verdict"]) == (1, "tampered")
    code, answer = call("verify", "--all", *pin)
    assert code == 1
    assert answer["first_bad"]["class"] == "ledger rewritten behind a signed checkpoint"
    assert call("verify", "--all")[1] == answer


def test_leaves_prove_consistency_to_any_reader(root):
    heads = [proofs.parse_head(one.note) for one in ledger_heads.read_heads(checkpoints_of(root))]
    for old, new in itertools.pairwise(heads):
        growth = ledger_proofs.prove_ledger_growth(old, ledger_of(root), new)
        assert signed.extends(old, new, growth.proof)


def to_nothing(path):
    path.symlink_to("nowhere")


def to_itself(path):
    path.symlink_to(path)


@pytest.mark.parametrize("name", [ledgers.LEDGER, ledgers.LEDGER_CHECKPOINTS])
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, to_nothing, to_itself])
def test_no_file_in_the_place_of_a_file_of_the_ledger(root, call, name, put):
    (root / name).unlink()
    put(root / name)
    assert failure(root) == "ledger replaced"
    for words in (["ledger", "verify"], ["verify", "--all"]):
        code, answer = call(*words)
        assert (code, answer["first_bad"]["class"]) == (1, "ledger replaced")
