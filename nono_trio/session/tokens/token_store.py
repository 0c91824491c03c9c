"""The file with the tokens of captured logins, beside a kept home.

    .../homes/NAME.ISOLATION/tokens.json   0600, beside home/, which is all that a cage sees

It has the tokens as they are, or sealed with a key of the user's keyring (token_keyring.py). So
one rename moves them from one form to the other, and they are never only half there. Rules of this
file:
- The session that holds the home's lock is the only one that reads and writes it. A copy of a home
  has a copy of its tokens. Who removes the home removes them.
- It is replaced as a whole, and durable before a new token is used.
- A sealed file names its home: a copy of it has the key of the first home, until it is sealed anew.
- It is opened below the open directory of the home, never through a symlink. Its mode is set each
  time, because in landlock isolation a command may change modes.
- No `repr` or error has a token.
"""

from __future__ import annotations

import base64
import contextlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.credentials.login_tokens import LoginToken
from nono_trio.sandbox.launcher.hostile_tree import names_in
from nono_trio.session.tokens.token_keyring import Unsealable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.session.tokens.token_keyring import SealingKey

    Logins = dict[str, tuple[LoginToken, ...]]

TOKENS: Final = "tokens.json"
MAX_FILE: Final = 8 << 20  # bytes; a login has 48 tokens at most, of some kilobytes each
_NEW: Final = "tokens.json."  # what follows is random
_MOST_NAMES: Final = 10_000


class _Kept(msgspec.Struct, frozen=True):
    """One token as it is written; both values in base64."""

    name: str
    token: str
    stand_in: str

    def __repr__(self) -> str:
        return "_Kept(...)"


class _Plain(msgspec.Struct, frozen=True):
    """The tokens of each login; what is sealed, too."""

    logins: dict[str, list[_Kept]]
    schema: int = 1

    def __repr__(self) -> str:
        return "_Plain(...)"


class _Sealed(msgspec.Struct, frozen=True):
    """A sealed file: `key` is the name of the key, `backend` the keyring's, and `sealed` base64."""

    home: str
    key: str
    backend: str
    sealed: str
    schema: int = 2


class _Form(msgspec.Struct, frozen=True):
    """The member that tells the two forms apart."""

    schema: int = 1


@dataclass(frozen=True, slots=True)
class SealedTokens:
    """The content of a sealed file."""

    home: str
    key: str
    backend: str
    sealed: bytes = field(repr=False)

    def unsealed(self, key: SealingKey) -> Logins:
        """Return the tokens of each login. Raises TokensUnreadable."""
        try:
            return _logins(key.unseal(self.sealed))
        except Unsealable:
            raise TokensUnreadable("it was sealed with another key") from None


class TokensUnreadable(Exception):
    """The file is there and can't be used; `reason` is a sentence about it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_tokens(directory: int) -> Logins | SealedTokens:
    """Return the tokens of each login, from the open directory of a home; none without a file.

    Removes the half-written file that a killed session left. Blocks. Raises TokensUnreadable.
    """
    data = _content(directory)
    if data is None:
        return {}
    try:
        if msgspec.json.decode(data, type=_Form).schema == 1:
            return _logins(data)
        found = msgspec.json.decode(data, type=_Sealed)
        sealed = base64.b64decode(found.sealed, validate=True)
    except (msgspec.DecodeError, ValueError):
        raise TokensUnreadable("it is not valid") from None
    return SealedTokens(found.home, found.key, found.backend, sealed)


def _logins(data: bytes) -> Logins:
    try:
        kept = msgspec.json.decode(data, type=_Plain)
        return {name: tuple(map(_read, some)) for name, some in kept.logins.items()}
    except (msgspec.DecodeError, ValueError):
        raise TokensUnreadable("it is not valid") from None


def _content(directory: int) -> bytes | None:
    for name in names_in(directory, _MOST_NAMES):
        if name.startswith(_NEW):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = _opened(directory, flags)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokensUnreadable((error.strerror or "it can't be opened").lower()) from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise TokensUnreadable("it is no file of its own")
        if found.st_uid != os.geteuid():
            raise TokensUnreadable("it belongs to another user")
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE:
        raise TokensUnreadable(f"it is longer than {MAX_FILE} bytes")
    return data


def write_tokens(
    directory: int,
    logins: Mapping[str, Sequence[LoginToken]],
    home: str = "",
    key: SealingKey | None = None,
) -> None:
    """Replace the file, sealed if there is a key. Blocks until it is on disk; raises OSError, and
    the old one is there."""
    kept = {name: [*map(_written, some)] for name, some in logins.items()}
    data = msgspec.json.encode(_Plain(kept))
    if key is not None:
        sealed = base64.b64encode(key.seal(data)).decode()
        data = msgspec.json.encode(_Sealed(home, key.name, key.backend, sealed))
    _replace(directory, data)


def _replace(directory: int, data: bytes) -> None:
    new = f"{_NEW}{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, TOKENS, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=directory)
        raise
    os.fsync(directory)


def copy_tokens(source: int, target: int) -> None:
    """Give the copy of a home the tokens of the first as they lie there; none if they can't be
    read. Blocks."""
    with contextlib.suppress(TokensUnreadable, OSError):
        data = _content(source)
        if data is not None and read_tokens(source):
            _replace(target, data)


def key_of_home(directory: int, home: str) -> str | None:
    """Return the name of the key that only this home has; None without one. Blocks."""
    with contextlib.suppress(TokensUnreadable, OSError):
        found = read_tokens(directory)
        if isinstance(found, SealedTokens) and found.home == home:
            return found.key
    return None


def _opened(directory: int, flags: int) -> int:
    try:
        return os.open(TOKENS, flags, dir_fd=directory)
    except PermissionError:
        os.chmod(TOKENS, 0o600, dir_fd=directory)
        return os.open(TOKENS, flags, dir_fd=directory)


def _read(kept: _Kept) -> LoginToken:
    token = base64.b64decode(kept.token, validate=True)
    stand_in = base64.b64decode(kept.stand_in, validate=True)
    if not (token and stand_in) or token == stand_in:
        raise ValueError
    return LoginToken(kept.name, token, stand_in)


def _written(one: LoginToken) -> _Kept:
    token, stand_in = (base64.b64encode(value).decode() for value in (one.token, one.stand_in))
    return _Kept(one.name, token, stand_in)
