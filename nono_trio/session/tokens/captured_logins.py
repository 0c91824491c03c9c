"""The captured logins of one session: their tokens in memory, and on disk if the home is kept.

Rules of this file:
- A token is on disk before the command gets its stand-in. If that fails, the login lasts for this
  session, and a note says so.
- One write at a time, of the newest state.
- A login is known by its name and its token URLs. The tokens of logins that this session does not
  have stay in the file.
- No `repr` has a token or a stand-in.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from nono_trio.core.credentials.login_tokens import LoginTokens
from nono_trio.session.tokens.kept_tokens import KeptTokens
from nono_trio.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.login_tokens import LoginToken, TokenQuestion
    from nono_trio.session.tokens.token_keyring import LoginKeyring

WRITE_SECONDS: Final = 10.0  # a file system that hangs must not hold a login up for ever


@dataclass(frozen=True, slots=True, eq=False)
class HeldToken:
    """A token as the proxy needs it; proxy/credentials/interfaces.py has the protocol."""

    credential: Credential
    token: LoginToken = field(repr=False)

    @property
    def stand_in(self) -> bytes:
        """The value that the command has."""
        return self.token.stand_in

    async def secret(self) -> bytes:
        """Return the token; it never waits."""
        return self.token.token

    def shown(self) -> tuple[bytes, ...]:
        """Return what the command has instead of the token."""
        return (self.stand_in,)

    def refused(self) -> None:
        """Nothing is done: the command refreshes its own login."""


class CapturedLogin:
    """One login. `changed` is called when its tokens are others."""

    def __init__(
        self,
        credential: Credential,
        settings: LoginSettings,
        kept: Sequence[LoginToken],
        save: Callable[[], Awaitable[None]],
    ) -> None:
        self.credential = credential
        self.settings = settings
        self.tokens = LoginTokens(settings.fields, secrets.randbelow, kept)
        self.changed: Callable[[], None] = _nothing
        self._save = save

    def __repr__(self) -> str:
        return f"CapturedLogin({self.credential.name})"

    @property
    def held(self) -> tuple[HeldToken, ...]:
        """Its tokens now."""
        return tuple(HeldToken(self.credential, one) for one in self.tokens.tokens)

    async def answered(
        self, question: TokenQuestion, content_type: bytes | None, body: bytes, *, is_success: bool
    ) -> bytes:
        """Take an answer; return what the command gets, once the tokens are kept. Raises BadAnswer.

        If cancelled, the tokens are in memory.
        """
        before = self.tokens.tokens
        made = self.tokens.answered(question, content_type, body, is_success=is_success)
        if self.tokens.tokens != before:
            self.changed()
            await self._save()
        return made


class SessionLogins:
    """All captured logins of a session. `directory` is that of a kept home's entry, None for a home
    that ends with the session. `warnings` are sentences for the user, `notes` those of later.

    Opening it blocks; raises OSError. Close it before the home's lock is given back.
    """

    def __init__(
        self,
        credentials: Sequence[Credential],
        directory: str | None,
        keyring: LoginKeyring | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._tokens = None if directory is None else KeptTokens(directory, keyring)
        self.warnings = [] if self._tokens is None else self._tokens.warnings
        self._kept: dict[str, Sequence[LoginToken]] = {}
        if self._tokens is not None:
            self._kept.update(self._tokens.logins)
        self._lock: trio.Lock | None = None
        self._is_lost = False
        self.logins = tuple(
            CapturedLogin(one, one.login, self._kept.get(_key(one.name, one.login), ()), self._save)
            for one in credentials
            if one.login is not None
        )

    @property
    def statements(self) -> list[str]:
        """Say for each login how long its tokens last, and where they are kept."""
        kept = self._tokens
        place = "its tokens end with the session" if kept is None else kept.place
        return [f"login {one.credential.name}: {place}" for one in self.logins]

    def close(self) -> None:
        """Close what is open."""
        if self._tokens is not None:
            self._tokens.close()

    async def _save(self) -> None:
        for one in self.logins:
            self._kept[_key(one.credential.name, one.settings)] = one.tokens.tokens
        kept = self._tokens
        if kept is None or not kept.may_write:
            return
        self._lock = self._lock or trio.Lock()
        # Shielded: an abandoned write could end after the next one.
        with trio.move_on_after(WRITE_SECONDS, shield=True) as scope:
            async with self._lock:
                if self._is_lost:  # a write that was given up may still go on
                    return
                try:
                    await in_thread(kept.write, dict(self._kept))
                except OSError as error:
                    self._lose((error.strerror or "its file can't be written").lower())
        if scope.cancelled_caught:
            self._lose("its file system does not answer")

    def _lose(self, reason: str) -> None:
        if not self._is_lost:
            self._is_lost = True
            self.notes.append(f"a login is not kept for the next session: {reason}")


def _key(name: str, settings: LoginSettings) -> str:
    return " ".join((name, *sorted(one.text for one in settings.token_urls)))


def _nothing() -> None:
    """Nobody is told."""
