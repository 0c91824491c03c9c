"""An archive: the bytes of it, the round trip to another machine, and its verdicts."""

from __future__ import annotations

import shutil
import signal

import archived
import msgspec
import pytest
import sealed_session as made
import signed_session
from archived import ID, archive_file, archive_of, parts, repacked

from nono_trio.audit import ledger, store
from nono_trio.audit.archive import verify as archive_verify
from nono_trio.audit.archive.import_session import import_archive
from nono_trio.audit.archive.verify import verify_archive
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.verify import carried_ledger as carried
from nono_trio.audit.verify.session import verify
from nono_trio.cli.audit.verify import verify_all, verify_targets
from nono_trio.core.log.ledger_record import (
    REMOVED_PREFIX,
    decode_ledger_record,
    encode_ledger_record,
    own_chain_hash,
)
from nono_trio.core.proof.proof_file import parse_proof
from nono_trio.errors import NonoTrioError


@pytest.fixture
def other(tmp_path):
    """The directory of the sessions on another machine."""
    return tmp_path / "other" / "audit"


@pytest.mark.parametrize("kind", archived.KINDS)
def test_a_session_verifies_alone_and_on_another_machine(root, other, tmp_path, kind):
    directory = kind(root)
    path = archive_file(tmp_path, directory)
    shutil.rmtree(root)
    answer = verify_archive(path)
    assert (answer.verdict, answer.session_id, answer.path) == ("verified", ID, str(path))
    assert (answer.ledger.matches, answer.ledger.imported, answer.ledger.chain_verified) == (
        True, True, None,
    )  # fmt: skip
    assert verify_archive(path, quick=True).verdict == "undamaged"
    done = import_archive(path, other)
    assert (done.verdict.verdict, done.is_new) == ("verified", True)
    answer = verify(other / ID)
    assert (answer.verdict, answer.ledger.imported, answer.ledger.chain_verified) == (
        "verified", True, True,
    )  # fmt: skip
    assert [one.session_id for one in ledger.read(other)] == [f"imported-{ID}"]
    assert archive_of(other / ID) == path.read_bytes()  # and so to the next one
    assert {one.stat().st_mode & 0o777 for one in (other / ID).iterdir()} == {0o600}
    assert [one.name for one in other.iterdir() if one.name.startswith(".")] == []


def test_the_same_session_makes_the_same_archive_later(root):
    directory = archived.signed(root)
    before = archive_of(directory)
    signed_session.sealed(root, signed_session.signer(), session_id="fedcba9876543210")
    assert archive_of(directory) == before
    names = [name.partition("/")[2] for name in parts(before)]
    assert names == sorted(names)
    assert set(store.CARRIED) < set(names)


def test_it_is_the_tar_that_the_standard_library_writes(root):
    data = archive_of(archived.signed(root))
    assert repacked(parts(data)) == data


def test_a_pinned_key_is_the_sessions_and_the_ledgers(root, tmp_path):
    path = archive_file(tmp_path, archived.signed(root))
    notes = verify_archive(path).notes
    assert sum("self-attested" in note for note in notes) == 2
    pinned = signed_session.signer().public
    answer = verify_archive(path, pinned=pinned)
    assert (answer.verdict, answer.attestation.pinned) == ("verified", True)
    assert "by the pinned key" in " ".join(answer.notes)
    another = signed_session.signer("two").public
    assert verify_archive(path, pinned=another).first_bad.failure == "key mismatch"
    unsigned = archive_file(tmp_path, made.build(tmp_path / "plain", ID), "plain.tar")
    assert verify_archive(unsigned, pinned=pinned).verdict == "tampered"


def lines_of_another(files, root):
    """The evidence of another session under the same key."""
    theirs = signed_session.sealed(root, signed_session.signer(), session_id="fedcba9876543210")
    return {name.partition("/")[2]: data for name, data in parts(archive_of(theirs)).items()}


@pytest.mark.parametrize("name", store.CARRIED)
def test_no_file_that_came_with_it_can_be_changed_or_taken_away(root, tmp_path, name):
    files = parts(archive_of(archived.signed(root)))
    theirs = lines_of_another(files, root)
    path, full = tmp_path / "changed.tar", f"{ID}/{name}"
    if name != store.PUBLIC_KEYS:  # both sessions have one key
        path.write_bytes(repacked(files | {full: theirs[name]}))
        assert verify_archive(path).verdict == "tampered"
    path.write_bytes(repacked(files | {full: files[full] + b"\n"}))
    assert verify_archive(path).verdict == "tampered"
    path.write_bytes(repacked({one: data for one, data in files.items() if one != full}))
    without = "unreadable" if name == store.LEDGER_LINE else "tampered"
    assert verify_archive(path).verdict == without


def another_line(files, **fields):
    """The ledger's line of an archive with other fields, and the hash of its own that fits."""
    record = decode_ledger_record(files[f"{ID}/{store.LEDGER_LINE}"])
    changed = msgspec.structs.replace(record, **fields)
    return msgspec.structs.replace(changed, chain_hash=own_chain_hash(changed))


def test_a_line_that_the_signed_tree_does_not_have_is_tampered(root, tmp_path):
    """Line, proof and checkpoint fit each other in all but the hashes."""
    files = parts(archive_of(archived.signed(root)))
    line = encode_ledger_record(another_line(files, completed_at="2020-01-01T00:00:00Z"))
    proof = parse_proof(files[f"{ID}/{store.LEDGER_PROOF}"])._replace(extra=line[:-1])
    forged = {f"{ID}/{store.LEDGER_LINE}": line, f"{ID}/{store.LEDGER_PROOF}": proof.encode()}
    path = tmp_path / "forged.tar"
    path.write_bytes(repacked(files | forged))
    answer = verify_archive(path)
    assert (answer.verdict, answer.first_bad.failure) == ("tampered", carried.PROOF_MISMATCH)


def test_the_line_about_a_removal_is_no_line_of_a_session(root, tmp_path):
    """It has the session's digest too."""
    files = parts(archive_of(archived.sealed(root)))
    line = another_line(files, session_id=REMOVED_PREFIX + ID)
    path = tmp_path / "removed.tar"
    path.write_bytes(repacked(files | {f"{ID}/{store.LEDGER_LINE}": encode_ledger_record(line)}))
    answer = verify_archive(path)
    assert (answer.verdict, answer.first_bad.failure) == (
        "tampered",
        f"ledger {carried.LINE_MISMATCH}",
    )


def test_a_changed_session_is_tampered_and_is_not_imported(root, other, tmp_path):
    files = parts(archive_of(archived.sealed(root)))
    log = f"{ID}/{store.LOG}"
    path = tmp_path / "changed.tar"
    path.write_bytes(repacked(files | {log: files[log].replace(b"evil.test", b"good.test")}))
    assert verify_archive(path).verdict == "tampered"
    done = import_archive(path, other)
    assert (done.verdict.verdict, done.is_new, done.verdict.path) == ("tampered", False, str(path))
    assert [*other.iterdir()] == []


def test_a_session_under_another_id_is_tampered(root, tmp_path):
    files = parts(archive_of(archived.sealed(root)))
    theirs = "fedcba9876543210"
    renamed = {name.replace(ID, theirs): data for name, data in files.items()}
    renamed[f"{theirs}/archive.json"] = files[f"{ID}/archive.json"].replace(
        ID.encode(), theirs.encode()
    )
    path = tmp_path / "renamed.tar"
    path.write_bytes(repacked(renamed))
    assert verify_archive(path).verdict == "tampered"


def test_the_same_session_is_here_already_and_another_is_refused(root, other, tmp_path):
    path = archive_file(tmp_path, archived.sealed(root))
    done = import_archive(path, root)
    assert (done.verdict.verdict, done.is_new) == ("verified", False)
    assert [one.session_id for one in ledger.read(root)] == [ID]
    assert import_archive(path, other).is_new
    assert not import_archive(path, other).is_new
    made.build(tmp_path / "third", ID)  # it has no flows
    with pytest.raises(NonoTrioError, match="another session"):
        import_archive(path, tmp_path / "third")
    shutil.rmtree(tmp_path / "third" / ID)
    with pytest.raises(NonoTrioError, match="another session"):
        import_archive(path, tmp_path / "third")


def test_a_session_that_the_ledger_calls_removed_is_not_said_to_be_here(
    root, tmp_path, monkeypatch
):
    path = archive_file(tmp_path, archived.sealed(root))
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "rename", die)
        with pytest.raises(KeyboardInterrupt):
            forget(root, ID)
    with pytest.raises(NonoTrioError, match="was not finished") as refused:
        import_archive(path, root)
    assert refused.value.hint == f"finish it: nono-trio audit forget {ID}"
    forget(root, ID)
    assert import_archive(path, root).is_new


def die(*_):
    raise KeyboardInterrupt


def test_a_link_in_the_place_of_a_session_is_not_the_session(root, other, tmp_path):
    path = archive_file(tmp_path, archived.sealed(other))
    root.mkdir(parents=True, exist_ok=True)
    (root / ID).symlink_to(other / ID)
    with pytest.raises(NonoTrioError, match=f"another session {ID} is known here"):
        import_archive(path, root)


def test_a_session_that_was_removed_comes_back(root, tmp_path):
    path = archive_file(tmp_path, archived.sealed(root))
    for _ in range(2):
        forget(root, ID)
        assert import_archive(path, root).is_new
        answer = verify(root / ID)
        assert (answer.verdict, answer.ledger.imported) == ("verified", True)
        assert [one.verdict for one in verify_all(root, quick=False, jobs=1)] == ["verified"]
    forget(root, ID)
    assert [*verify_all(root, quick=False, jobs=1)] == []
    lines = ["", "removed-", "imported-", "removed-", "imported-", "removed-"]
    assert [one.session_id for one in ledger.read(root)] == [prefix + ID for prefix in lines]


def test_a_session_that_was_removed_before_it_was_sealed_comes_back_as_no_other(
    root, other, tmp_path
):
    path = archive_file(tmp_path, archived.sealed(other))
    made.unsealed(root, ID)
    forget(root, ID)
    with pytest.raises(NonoTrioError, match=f"another session {ID} is known here"):
        import_archive(path, root)
    assert not (root / ID).exists()


def test_an_imported_session_is_missing_when_it_is_gone_and_tampered_without_its_line(
    root, other, tmp_path
):
    import_archive(archive_file(tmp_path, archived.signed(root)), other)
    (other / ID / store.LEDGER_PROOF).rename(tmp_path / "kept")
    assert verify(other / ID).first_bad.failure == carried.PROOF_MISMATCH
    (other / ID / store.LEDGER_LINE).unlink()
    assert verify(other / ID).first_bad.failure == carried.LINE_MISMATCH
    shutil.rmtree(other / ID)
    (answer,) = verify_all(other, quick=False, jobs=1)
    assert (answer.verdict, "imported" in answer.notes[0]) == ("missing", True)


def test_a_damaged_line_of_an_import_condemns_its_session_only(root, other, tmp_path):
    path = archive_file(tmp_path, archived.sealed(root))
    mine = made.build(other, "1111111111111111")
    import_archive(path, other)
    lines = other / ledger.LEDGER
    first, second = lines.read_bytes().splitlines(keepends=True)
    place = second.index(b'"completed_at":"') + 20
    lines.write_bytes(first + second[:place] + b"7" + second[place + 1 :])
    assert verify(mine).verdict == "verified"
    assert verify(other / ID).first_bad.failure == "ledger chain hash mismatch"
    shutil.rmtree(other / ID)
    assert ledger.verify(other).condemned.keys() == {ID}


def test_an_archive_in_the_state_directory_is_an_archive_too(root):
    directory = archived.sealed(root)
    path = archive_file(root, directory)
    answers = verify_targets(root, [str(path), ID], quick=False, jobs=1)
    assert [(one.verdict, one.path) for one in answers] == [
        ("verified", str(path)), ("verified", str(directory)),
    ]  # fmt: skip


def test_an_imported_session_is_never_the_latest(root, other, tmp_path):
    path = archive_file(tmp_path, archived.sealed(root))
    mine = made.build(other, "1111111111111111", name="mine")
    import_archive(path, other)
    assert store.find_session(other, store.LATEST) == mine
    assert store.find_session(other, ID[:4]) == other / ID


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_unpacked_is_removed_when_the_command_ends(
    root, run, tmp_path, monkeypatch, number
):
    path = archive_file(tmp_path, archived.sealed(root))
    unpacked = []

    def interrupted(directory, **_arguments):
        unpacked.append(directory)
        assert directory.parent.stat().st_mode & 0o777 == 0o700
        signal.raise_signal(number)  # to this thread: another one would take it a moment later

    monkeypatch.setattr(archive_verify, "verify", interrupted)
    assert run("audit", "verify", path)[0] == 128 + number
    assert run("audit", "import", path, "--audit-dir", tmp_path / "new")[0] == 128 + number
    assert len(unpacked) == 2
    assert not any(one.exists() or one.parent.exists() for one in unpacked)


def test_a_record_of_the_ledger_that_is_not_signed_yet_has_no_proof(root, tmp_path):
    archived.signed(root)
    path = archive_file(tmp_path, made.build(root, "1111111111111111"))
    assert verify_archive(path).verdict == "verified"
    assert f"1111111111111111/{store.LEDGER_PROOF}" not in parts(path.read_bytes())


def test_a_tampered_ledger_proves_nothing(root):
    directory = archived.signed(root)
    signed_session.sealed(root, signed_session.signer(), session_id="fedcba9876543210")
    path = root / ledger.LEDGER
    first, second = path.read_bytes().splitlines(keepends=True)
    checkpoints = root / ledger.LEDGER_CHECKPOINTS
    checkpoints.write_bytes(checkpoints.read_bytes().splitlines(keepends=True)[1])
    path.write_bytes(first + second.replace(b"fedcba", b"abcdef"))
    with pytest.raises(NonoTrioError, match="is tampered, so it proves nothing"):
        archive_of(directory)
