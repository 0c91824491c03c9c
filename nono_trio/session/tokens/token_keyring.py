"""The user's keyring, for the keys that seal the tokens of captured logins.

Rules of this file:
- The keyring is asked before the command starts, and when a home is removed; never while a command
  runs, because a screen that is locked locks the keyring too.
- It may ask a person. So it is asked in a thread of its own, and all questions of a session have
  SECONDS together. Who is not answered goes on without it.
- Only a backend that its authors recommend (priority 1 and more) is used: others keep passwords in
  plain files. Of a chain, only the first is asked.
- A key is used once the keyring has given it back.
- No error has a text of the keyring's.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nono_trio.core.credentials.credential import KEYRING_EXTRA

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE: Final = "nono-trio logins"
SECONDS: Final = 10.0  # for a person who unlocks it; a run must not hang without one
_RECOMMENDED: Final = 1
_KEY_BYTES: Final = 32  # AES-256
_NONCE_BYTES: Final = 12

_Result = TypeVar("_Result")


class KeyringUnusable(Exception):
    """The keyring gives and keeps nothing; `reason` completes "...: ", `hint` says what helps."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Unsealable(Exception):
    """The data was sealed with another key, or changed since."""


@dataclass(frozen=True, slots=True)
class SealingKey:
    """A key of the keyring: under which `name`, and which `backend` has it."""

    name: str
    backend: str
    key: bytes = field(repr=False)

    def seal(self, data: bytes) -> bytes:
        """Encrypt and authenticate (AES-256-GCM), bound to the name."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # late: 40 ms

        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self.key).encrypt(nonce, data, self.name.encode())

    def unseal(self, sealed: bytes) -> bytes:
        """Return what was sealed. Raises Unsealable."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return AESGCM(self.key).decrypt(nonce, rest, self.name.encode())
        except (InvalidTag, ValueError, OverflowError):
            raise Unsealable from None


class LoginKeyring:
    """The keyring for the logins of one session. `refusal` says why it must not be asked."""

    def __init__(self, refusal: str | None = None) -> None:
        self._refusal = refusal
        self._until: float | None = None

    def make_key(self, home: str) -> SealingKey:
        """Make a key for a home and have the keyring keep it. Blocks. Raises KeyringUnusable."""
        return self._ask(lambda: _make(home))

    def find_key(self, name: str, backend: str) -> SealingKey | None:
        """Return a key that is there; None if the same keyring has it no longer. Blocks. Raises
        KeyringUnusable."""
        return self._ask(lambda: _find(name, backend))

    def forget_key(self, name: str) -> None:
        """Have the keyring forget a key, if it answers. Blocks."""
        with contextlib.suppress(KeyringUnusable):
            self._ask(lambda: _backend().delete_password(SERVICE, name))

    def _ask(self, question: Callable[[], _Result]) -> _Result:
        if self._refusal is not None:
            raise KeyringUnusable(self._refusal)
        self._until = self._until or time.monotonic() + SECONDS
        answers: queue.SimpleQueue[_Result | KeyringUnusable] = queue.SimpleQueue()
        thread = threading.Thread(target=lambda: answers.put(_answer(question)), daemon=True)
        try:
            thread.start()
            answer = answers.get(timeout=max(self._until - time.monotonic(), 0))
        except RuntimeError:
            raise KeyringUnusable("the system has no thread to ask the keyring") from None
        except queue.Empty:
            self._refusal = f"the keyring did not answer within {SECONDS:.0f} s"
            raise KeyringUnusable(self._refusal, "see whether it waits for you") from None
        if isinstance(answer, KeyringUnusable):
            raise answer
        return answer


def _answer(question: Callable[[], _Result]) -> _Result | KeyringUnusable:
    try:
        return question()
    except KeyringUnusable as unusable:
        return unusable
    except Exception as error:  # whatever a backend raises, with a text that may have anything
        if type(error).__name__ == "KeyringLocked":
            return KeyringUnusable("the keyring is locked", "unlock it, then start again")
        return KeyringUnusable(f"the keyring failed: {type(error).__name__}")


def _backend() -> Any:  # noqa: ANN401  (the library has no types that mypy reads)
    """Return the backend that is asked. Raises KeyringUnusable."""
    try:
        import keyring
    except ImportError:
        raise KeyringUnusable(
            "the library keyring is missing", f"pip install '{KEYRING_EXTRA}'"
        ) from None
    found = keyring.get_keyring()
    chained = getattr(found, "backends", None)
    if chained:
        found = chained[0]
    if found.priority < _RECOMMENDED:
        raise KeyringUnusable(
            "there is no keyring on this machine", "`keyring --list-backends` shows what is"
        )
    return found


def name_of(backend: object) -> str:
    """Return by what name a file knows a backend."""
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _make(home: str) -> SealingKey:
    backend = _backend()
    name = f"{home} {secrets.token_hex(8)}"
    made = SealingKey(name, name_of(backend), secrets.token_bytes(_KEY_BYTES))
    text = base64.b64encode(made.key).decode()
    backend.set_password(SERVICE, name, text)
    if backend.get_password(SERVICE, name) != text:
        raise KeyringUnusable("the keyring does not keep what it is given")
    return made


def _find(name: str, backend_name: str) -> SealingKey | None:
    backend = _backend()
    text = backend.get_password(SERVICE, name)
    if text is None:
        if name_of(backend) == backend_name:
            return None
        raise KeyringUnusable(f"their key is in another keyring ({backend_name})")
    return SealingKey(name, backend_name, base64.b64decode(text, validate=True))
