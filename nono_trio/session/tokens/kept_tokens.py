"""Keeps the tokens of a home: sealed with a key of the keyring, else in a plain file.

Rules of this file:
- The keyring is used if it is there and answers, before the command starts. Tokens that lie in a
  plain file are sealed then, by one replacement of the file: a session that is killed meanwhile
  leaves the one or the other.
- Tokens that can't be opened now, because the keyring is locked or another one, are never
  overwritten: the logins of such a session end with it. Those whose key is gone are.
- A copy of a home gets a key of its own.
"""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from nono_trio.sandbox.launcher.hostile_tree import open_directory
from nono_trio.session.tokens.token_keyring import KeyringUnusable, LoginKeyring
from nono_trio.session.tokens.token_store import (
    TOKENS,
    SealedTokens,
    TokensUnreadable,
    read_tokens,
    write_tokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.core.credentials.login_tokens import LoginToken
    from nono_trio.session.tokens.token_keyring import SealingKey


class KeptTokens:
    """The kept tokens of one home, whose entry lies in `path`. Opening it blocks; raises OSError.

    `logins` are those that were found, `warnings` sentences for the user, and `place` says where
    the tokens are kept. `may_write` is False if they must stay as they are.
    """

    def __init__(self, path: str, keyring: LoginKeyring | None = None) -> None:
        self.logins: dict[str, tuple[LoginToken, ...]] = {}
        self.warnings: list[str] = []
        self.may_write = True
        self._path = path
        self._home = os.path.basename(path)
        self._keyring = keyring or LoginKeyring("no keyring is used")
        self._key: SealingKey | None = None
        self._why_plain = ""
        self._directory = open_directory(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    @property
    def place(self) -> str:
        """The place of the tokens, for the user."""
        if not self.may_write:
            return "its tokens end with the session"
        if self._key is not None:
            name = self._key.backend.removeprefix("keyring.backends.").removesuffix(".Keyring")
            return f"its tokens are kept with the home, sealed by a key of the keyring ({name})"
        return f"its tokens are kept with the home, in a file (0600): {self._why_plain}"

    def write(self, logins: Mapping[str, Sequence[LoginToken]]) -> None:
        """Keep these. Blocks until they are on disk; raises OSError."""
        write_tokens(self._directory, logins, self._home, self._key)

    def close(self) -> None:
        """Close what is open."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def _open(self) -> None:
        try:
            found = read_tokens(self._directory)
            if isinstance(found, SealedTokens):
                self._unseal(found)
            else:
                self.logins = found
        except TokensUnreadable as fault:
            self._warn(f"can't be used: {fault.reason}; sign in again")
        if self._key is None and self.may_write:
            self._move()

    def _unseal(self, found: SealedTokens) -> None:
        """Open what is sealed. Raises TokensUnreadable for what never can be."""
        try:
            key = self._keyring.find_key(found.key, found.backend)
        except KeyringUnusable as unusable:
            self.may_write = False
            hint = unusable.hint or f"to begin anew: rm {shlex.quote(self._file)}"
            self._warn(f"can't be opened: {unusable.reason} ({hint}); a login is not kept now")
            return
        if key is None:
            raise TokensUnreadable("the keyring has their key no longer")
        self.logins = found.unsealed(key)
        if found.home == self._home:
            self._key = key

    def _move(self) -> None:
        """Have the tokens sealed, if the keyring can be used."""
        try:
            key = self._keyring.make_key(self._home)
        except KeyringUnusable as unusable:
            self._why_plain = unusable.reason
            return
        try:
            write_tokens(self._directory, self.logins, self._home, key)
        except OSError as error:  # what is there holds
            self._why_plain = (error.strerror or "they can't be sealed").lower()
            self._keyring.forget_key(key.name)
            return
        self._key = key

    @property
    def _file(self) -> str:
        return os.path.join(self._path, TOKENS)

    def _warn(self, text: str) -> None:
        self.warnings.append(f"the kept logins in {self._file} {text}")
