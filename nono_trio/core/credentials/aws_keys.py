"""The keys of an AWS account as a value, and the JSON in which a command line gives them.

That JSON is the answer of a `credential_process`, as AWS's tools define it; `aws configure
export-credentials` prints it too.

Rules of this file: no `repr` and no error has a key or a token; what is missing, of another type or
there twice is refused.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from nono_trio.core.credentials.shape import stand_in_like

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_ANSWER: Final = 64 * 1024  # bytes; a session token has at most some thousands
KEY_ID: Final = "AccessKeyId"
SECRET_KEY: Final = "SecretAccessKey"
SESSION_TOKEN: Final = "SessionToken"
EXPIRATION: Final = "Expiration"


class BadAwsKeys(Exception):
    """A source gave no keys. `reason` is a sentence without a key."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class AwsKeys:
    """Keys that sign. `session_token` is None for keys that do not expire."""

    access_key_id: bytes = field(repr=False)
    secret_access_key: bytes = field(repr=False)
    session_token: bytes | None = field(default=None, repr=False)

    __hash__: ClassVar[None]  # type: ignore[assignment]  # a hash would tell of them

    def texts(self) -> tuple[bytes, ...]:
        """Return all that is in them."""
        token = () if self.session_token is None else (self.session_token,)
        return (self.access_key_id, self.secret_access_key, *token)

    def has_id(self, key_id: bytes) -> bool:
        """Return True if `key_id` is their id."""
        return hmac.compare_digest(key_id, self.access_key_id)

    def has_token(self, token: bytes) -> bool:
        """Return True if `token` is their session token."""
        return self.session_token is not None and hmac.compare_digest(token, self.session_token)


@dataclass(frozen=True, slots=True)
class DatedKeys:
    """Keys with the time at which they end, in seconds since 1970; None if they do not end."""

    keys: AwsKeys
    expires: float | None = None


class _Answer(msgspec.Struct, rename="pascal"):
    version: int
    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expiration: str | None = None


def parse_keys(data: bytes) -> DatedKeys:
    """Read the answer of a `credential_process`. Raises BadAwsKeys."""
    if len(data) > MAX_ANSWER:
        raise BadAwsKeys(f"the keys are longer than {MAX_ANSWER} bytes")
    try:
        answer = msgspec.json.decode(data, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadAwsKeys(
            f"expected JSON with Version, {KEY_ID} and {SECRET_KEY}, as a credential_process prints"
        ) from None
    if answer.version != 1:
        raise BadAwsKeys(f"expected Version 1 of the keys, got {answer.version}")
    keys = make_keys(
        answer.access_key_id.encode(),
        answer.secret_access_key.encode(),
        answer.session_token.encode() if answer.session_token else None,
    )
    return DatedKeys(keys, _time(answer.expiration))


def make_keys(key_id: bytes, secret_key: bytes, session_token: bytes | None = None) -> AwsKeys:
    """Return the keys. Raises BadAwsKeys for one that a request can't carry."""
    parts = ((KEY_ID, key_id), (SECRET_KEY, secret_key), (SESSION_TOKEN, session_token))
    for name, value in parts:
        if value is not None and not (value and all(0x21 <= one <= 0x7E for one in value)):
            raise BadAwsKeys(f"{name} is empty, or has another character than printable ASCII")
    if b"/" in key_id or b"," in key_id:
        raise BadAwsKeys(f"{KEY_ID} has a slash or a comma")
    return AwsKeys(key_id, secret_key, session_token)


def stand_ins_like(keys: AwsKeys, draw: Callable[[int], int]) -> AwsKeys:
    """Return keys of the same shape, of which nothing else is left. Raises UnfitSecret."""
    token = keys.session_token
    return AwsKeys(
        stand_in_like(keys.access_key_id, draw),
        stand_in_like(keys.secret_access_key, draw),
        None if token is None else stand_in_like(token, draw),
    )


def _time(text: str | None) -> float | None:
    """Read a time of ISO 8601, which must name its zone."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadAwsKeys(f"{EXPIRATION} of the keys is no time of ISO 8601") from None
    if moment.tzinfo is None:
        raise BadAwsKeys(f"{EXPIRATION} of the keys names no time zone")
    return moment.astimezone(UTC).timestamp()
