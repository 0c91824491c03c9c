"""Root at work in another user's state directory: whose the files are, and where it is led."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import crashed_session as crashed
import pytest

from nono_trio.audit import ledger, store
from nono_trio.audit.recovery.abandoned import remove_abandoned
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.write import ledger_append
from nono_trio.errors import NonoTrioError
from nono_trio.posix.owner import as_owner, open_shared

# Any uid except root's; it needs no account.
USER = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@pytest.fixture
def root():
    """The audit directory of a user, in a place that the user may reach (pytest's is root's)."""
    place = Path(tempfile.mkdtemp(prefix="ownership-"))
    place.chmod(0o755)
    root = place / "audit"
    root.mkdir(mode=0o700)
    os.chown(root, USER, USER)
    yield root
    shutil.rmtree(place)


@pytest.fixture
def session(root):
    """A crashed session with a torn tail, the user's."""
    directory = crashed.torn(root)
    for path in (directory, *directory.iterdir()):
        os.chown(path, USER, USER)
    (root / ledger.LEDGER).unlink(missing_ok=True)
    (root / ledger_append.LOCK).unlink(missing_ok=True)
    return directory


def owners(root):
    return {path.name: path.lstat().st_uid for path in root.rglob("*")}


def test_a_recovery_by_root_leaves_everything_the_users(root, session):
    answer = recover(session)
    assert (answer.outcome, answer.reason) == ("recovered", None)
    found = owners(root)
    assert set(found.values()) == {USER}
    assert {
        store.SESSION,
        store.LOG + store.TORN,
        ledger.LEDGER,
        ledger_append.LOCK,
    } <= found.keys()
    assert os.geteuid() == 0


@pytest.mark.parametrize("name", [store.LOG + store.TORN, store.CHECKPOINTS])
def test_root_is_not_led_out_by_a_symlink(root, session, name):
    outside = root.parent / "outside"
    outside.mkdir(mode=0o700)
    (session / name).unlink(missing_ok=True)
    (session / name).symlink_to(outside / "made")
    assert recover(session).outcome != "recovered"
    assert list(outside.iterdir()) == []


def test_root_changes_no_file_of_its_own_by_another_name(root, session):
    precious = root.parent / "precious"
    precious.write_bytes((session / store.LOG).read_bytes())
    precious.chmod(0o600)
    (session / store.LOG).unlink()
    os.link(precious, session / store.LOG)
    before = precious.read_bytes()
    assert recover(session).outcome == "unreadable"
    assert precious.read_bytes() == before


def test_a_session_directory_that_is_a_symlink_is_not_entered_as_root(root, session):
    inner = root.parent / "of_root"
    session.rename(inner)
    os.chown(inner, 0, 0)
    inner.chmod(0o700)
    session.symlink_to(inner)
    os.chown(session, USER, USER, follow_symlinks=False)
    assert recover(session).outcome in ("failed", "unreadable")
    assert not (inner / (store.LOG + store.TORN)).exists()


def test_the_ledger_of_a_session_that_root_ran_stays_the_users(root):
    ledger_append.append(root, "s", "ab" * 32, "2026-07-02T11:48:52Z")
    assert owners(root) == {ledger.LEDGER: USER, ledger_append.LOCK: USER}


@pytest.mark.parametrize("name", [ledger_append.LOCK, ledger.LEDGER])
def test_the_ledger_is_not_opened_through_links(root, name):
    outside = root.parent / "outside"
    (root / name).symlink_to(outside)
    with pytest.raises(OSError, match="symbolic links"):
        open_shared(root / name, os.O_RDWR)
    assert not outside.exists()
    (root / name).unlink()
    outside.touch()
    os.link(outside, root / name)
    with pytest.raises(OSError, match="another name"):
        open_shared(root / name, os.O_RDWR)


ID = crashed.ID


def of_root(root, name):
    """A directory of root's, closed to others, that a user has renamed; return the file in it."""
    (root / name).mkdir(mode=0o700)
    precious = root / name / "precious"
    precious.touch()
    os.utime(root / name, (0, 0))
    return precious


@pytest.mark.parametrize("mode", [0o700, 0o777])
@pytest.mark.parametrize("prefix", [store.STARTING, store.REMOVING, store.IMPORTING])
def test_root_removes_no_tree_of_its_own_that_a_user_renamed(root, prefix, mode):
    """Before, `cleanup` and `recover --all` removed it, because its own owner decided."""
    precious = of_root(root, prefix + ID)
    root.chmod(mode)
    removed, stuck = remove_abandoned(root)
    assert (removed, [str(precious.parent) in one.message for one in stuck]) == (0, [True])
    assert precious.exists()


@pytest.mark.parametrize("name", [ID, store.REMOVING + ID])
def test_root_forgets_no_tree_of_its_own_that_a_user_renamed(root, name):
    precious = of_root(root, name)
    ledger_append.append(root, ID, "ab" * 32, "2026-07-02T11:48:52Z")
    with pytest.raises(NonoTrioError) as raised:
        forget(root, ID)
    assert raised.value.hint is not None
    assert precious.exists()
    assert name == store.REMOVING + ID or ID not in ledger.verify(root).removed


def test_roots_group_is_not_the_users_because_a_directory_has_it(root, session):
    """As root leaves it that makes a directory and gives it to a user."""
    os.chown(root, USER, 0)
    log, precious = session / store.LOG, session / (store.LOG + store.TORN)
    precious.unlink(missing_ok=True)
    precious.write_text("root's")
    precious.chmod(0o664)
    hidden = root / (store.REMOVING + "b" * 16)
    (hidden / "precious").mkdir(parents=True)
    hidden.chmod(0o775)
    os.utime(hidden, (0, 0))
    log.write_bytes(log.read_bytes() + b"what the user wants to be there")
    os.chown(log, USER, USER)
    assert recover(session).outcome == "failed"
    assert precious.read_text() == "root's"
    assert remove_abandoned(root).removed == 0
    assert (hidden / "precious").exists()


def test_root_recovers_no_session_directory_of_its_own_that_a_user_renamed(root, session):
    for path in (session, *session.iterdir()):
        os.chown(path, 0, 0)
    session.chmod(0o700)
    before = {path: path.read_bytes() for path in session.iterdir()}
    assert recover(session).outcome == "unreadable"
    assert {path: path.read_bytes() for path in session.iterdir()} == before


def test_a_user_does_not_hide_a_session_that_it_can_not_remove(root, session):
    """Before, the ledger's line and the rename came first, and half of it stayed for ever."""
    os.chown(session, 0, 0)
    with pytest.raises(NonoTrioError, match="belongs to the user 0"):
        forget(root, session.name)
    assert session.exists()
    assert ledger.verify(root).count == 0


def test_root_removes_a_session_of_another_user_from_its_own_directory(session):
    os.chown(session.parent, 0, 0)
    assert forget(session.parent, session.name)
    assert not session.exists()


def test_root_becomes_itself_again(root):
    groups = os.getgroups()
    with as_owner(root):
        assert (os.geteuid(), os.getgroups()) == (USER, [])
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
    with pytest.raises(FileNotFoundError), as_owner(root):
        os.stat("/does/not/exist")
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, groups)
