"""The tokens of captured logins are sealed with a key of the keyring, where there is one.

The library keyring is the real one; its backends are the tests' own (support/file_keyring.py).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import file_keyring
import keyring as library
import pytest
from harness import RUN_SECONDS
from keyring.backends.chainer import ChainerBackend

from nono_trio.core.credentials.login_tokens import LoginToken
from nono_trio.session.homes.kept_homes import Homes, WantedHome
from nono_trio.session.tokens import kept_tokens, token_keyring
from nono_trio.session.tokens.kept_tokens import KeptTokens
from nono_trio.session.tokens.token_keyring import LoginKeyring
from nono_trio.session.tokens.token_store import TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPPORT = Path(file_keyring.__file__).parent
ONE = LoginToken("access_token", b"gho_abcDEF0123456789abcdef", b"stand-in-0123456789-0123")
TWO = LoginToken("access_token", b"gho_another-token-987654321", b"stand-in-9876543210-9876")
LOGINS = {"agent": (ONE,)}


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[file_keyring.Keyring]:
    monkeypatch.setenv(file_keyring.FILE, str(tmp_path / "ring.json"))
    before = library.get_keyring()
    found = file_keyring.Keyring()
    library.set_keyring(found)
    yield found
    library.set_keyring(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    found = tmp_path / "agent.namespace"
    found.mkdir()
    return found


def opened(home: Path, refusal: str | None = None) -> KeptTokens:
    found = KeptTokens(str(home), LoginKeyring(refusal))
    found.close()
    return found


def write(home: Path, logins: dict[str, tuple[LoginToken, ...]], refusal: str | None = None) -> str:
    """Write tokens as a session does; return where it says that they are."""
    found = KeptTokens(str(home), LoginKeyring(refusal))
    found.write(logins)
    found.close()
    return found.place


def test_tokens_move_from_the_file_into_the_keyring_and_stay_there(ring, home) -> None:
    said = write(home, LOGINS, "it may not be asked")
    assert said.endswith("in a file (0600): it may not be asked")
    assert opened(home, "it may not be asked").logins == LOGINS
    first = opened(home)
    assert first.logins == LOGINS
    assert first.place.endswith("sealed by a key of the keyring (file_keyring)")
    data = (home / TOKENS).read_bytes()
    assert b"stand-in" not in data
    assert ONE.token not in data
    assert "access_token" not in str(data)
    assert len(ring.passwords()) == 1
    write(home, {"agent": (ONE, TWO)})
    assert opened(home).logins == {"agent": (ONE, TWO)}
    assert len(ring.passwords()) == 1
    assert opened(home).warnings == []


def test_a_session_that_is_killed_meanwhile_loses_no_login(ring, home, tmp_path) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(SUPPORT),
        "PYTHON_KEYRING_BACKEND": "file_keyring.Keyring",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "sealing_killed.py"), str(home)],
        env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5


def locked(ring: file_keyring.Keyring, _patch: pytest.MonkeyPatch) -> str:
    Path(os.environ[file_keyring.FILE]).with_suffix(".locked").touch()
    return "the keyring is locked"


def another(ring: file_keyring.Keyring, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(token_keyring, "name_of", lambda _backend: "other.Keyring")
    patch.setattr(ring, "passwords", dict)
    return "their key is in another keyring (file_keyring.Keyring)"


def unsafe(_ring: file_keyring.Keyring, _patch: pytest.MonkeyPatch) -> str:
    library.set_keyring(file_keyring.Unsafe())
    return "there is no keyring on this machine"


def failing(ring: file_keyring.Keyring, patch: pytest.MonkeyPatch) -> str:
    def fail() -> dict[str, str]:
        raise ConnectionError(ONE.token.decode())

    patch.setattr(ring, "passwords", fail)
    return "the keyring failed: ConnectionError"


def silent(ring: file_keyring.Keyring, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(ring, "passwords", threading.Event().wait)
    patch.setattr(token_keyring, "SECONDS", 0.3)
    return "the keyring did not answer within 0 s"


def missing(_ring: file_keyring.Keyring, patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "keyring", None)
    return "the library keyring is missing"


@pytest.mark.parametrize("what", [locked, another, unsafe, failing, silent, missing])
def test_tokens_that_the_keyring_does_not_open_now_are_not_overwritten(
    ring, home, monkeypatch, what
) -> None:
    opened(home)
    write(home, LOGINS)
    sealed = (home / TOKENS).read_bytes()
    with monkeypatch.context() as patch:
        reason = what(ring, patch)
        found = opened(home)
        assert found.logins == {}
        assert not found.may_write
        assert found.place == "its tokens end with the session"
        [warning] = found.warnings
        assert f"can't be opened: {reason}" in warning
        assert ONE.token.decode() not in warning
    assert (home / TOKENS).read_bytes() == sealed
    library.set_keyring(ring)
    Path(os.environ[file_keyring.FILE]).with_suffix(".locked").unlink(missing_ok=True)
    assert opened(home).logins == LOGINS


@pytest.mark.parametrize("what", [locked, unsafe, failing, silent, missing])
def test_without_a_usable_keyring_the_file_has_the_tokens(ring, home, monkeypatch, what) -> None:
    with monkeypatch.context() as patch:
        reason = what(ring, patch)
        assert write(home, LOGINS).endswith(f"in a file (0600): {reason}")
        assert opened(home).logins == LOGINS


def test_a_chain_of_keyrings_is_asked_at_its_first_alone(ring, home, monkeypatch) -> None:
    monkeypatch.setattr(ChainerBackend, "backends", [ring, file_keyring.Unsafe()])
    library.set_keyring(ChainerBackend())
    assert write(home, LOGINS).endswith("(file_keyring)")
    monkeypatch.setattr(ChainerBackend, "backends", [file_keyring.Unsafe()])
    assert opened(home).logins == {}


def test_tokens_whose_key_is_gone_are_replaced_by_the_next_login(ring, home) -> None:
    write(home, LOGINS)
    Path(os.environ[file_keyring.FILE]).unlink()
    found = KeptTokens(str(home), LoginKeyring())
    assert found.logins == {}
    assert "the keyring has their key no longer; sign in again" in found.warnings[0]
    found.write({"agent": (TWO,)})
    found.close()
    assert opened(home).logins == {"agent": (TWO,)}


def test_what_was_changed_or_sealed_with_another_key_is_not_read(ring, home, tmp_path) -> None:
    write(home, LOGINS)
    data = (home / TOKENS).read_bytes()
    at = data.index(b'"sealed":"') + 30
    (home / TOKENS).write_bytes(
        data[:at] + (b"A" if data[at : at + 1] != b"A" else b"B") + data[at + 1 :]
    )
    found = opened(home)
    assert found.logins == {}
    assert "it was sealed with another key; sign in again" in found.warnings[0]


def test_a_seal_that_can_not_be_written_leaves_the_file(ring, home, monkeypatch) -> None:
    write(home, LOGINS, "not yet")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_tokens, "write_tokens", full)
    found = opened(home)
    assert found.logins == LOGINS
    assert found.place.endswith("in a file (0600): no space left on device")
    assert ring.passwords() == {}


def test_a_copy_of_a_home_has_its_own_key_and_removal_forgets_one(ring, tmp_path) -> None:
    homes = Homes(str(tmp_path / "homes"))
    wanted = WantedHome("agent-x", "landlock", "agent", str(tmp_path))
    first = homes.claim(wanted, ())
    write(Path(first.path).parent, LOGINS)
    second = homes.claim(wanted, ())
    assert second.name == "agent-x-2.landlock"
    beside = Path(second.path).parent
    assert opened(beside).logins == LOGINS
    assert len(ring.passwords()) == 2
    for one in (first, second):
        one.close()
    homes.remove(first.name)
    assert len(ring.passwords()) == 1
    assert opened(beside).logins == LOGINS
    homes.remove(second.name)
    assert ring.passwords() == {}


def test_a_removal_that_is_killed_is_ended_by_the_next_one(ring, tmp_path) -> None:
    environment = {
        **os.environ, "PYTHONPATH": str(SUPPORT),
        "PYTHON_KEYRING_BACKEND": "file_keyring.Keyring",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "removal_killed.py"), str(tmp_path / "homes")],
        env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10
