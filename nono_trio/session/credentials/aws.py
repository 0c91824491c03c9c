"""AWS keys as a credential: what reads them, and the stand-ins that the command signs with.

Rules of this file:
- The secret of such a credential is the JSON of a `credential_process`, from one source, or put
  together of one source each. So it is read, kept and read again as any secret is.
- Keys are used until a margin before their end. Keys whose end is over are a failure.
- No `repr` and no error has a key.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.credentials.aws_keys import (
    KEY_ID,
    SECRET_KEY,
    SESSION_TOKEN,
    AwsKeys,
    BadAwsKeys,
    parse_keys,
    stand_ins_like,
)
from nono_trio.core.credentials.credential import COMMAND, ENVIRONMENT, FILE
from nono_trio.core.credentials.secret import Secret
from nono_trio.core.credentials.shape import UnfitSecret
from nono_trio.errors import UsageError
from nono_trio.session.credentials.held_secret import HeldSecret
from nono_trio.session.credentials.readers import SourceFailed
from nono_trio.session.credentials.sources import SecretSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.credentials.credential import Credential, Source
    from nono_trio.session.credentials.readers import Reader

MARGIN: Final = 60  # seconds before their end in which keys are not used any more
_HINT: Final = "see what its source prints, and whether you are still signed in there"


class AwsKeysReader:
    """Reads the JSON with all of the keys from one source."""

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.time) -> None:
        self._reader = reader
        self._clock = clock

    def read(self) -> Secret:
        """Return the JSON, with the time for which the keys hold. Raises SourceFailed."""
        text = self._reader.read().reveal()
        try:
            found = parse_keys(text)
        except BadAwsKeys as bad:
            raise SourceFailed(bad.reason, _HINT) from None
        if found.expires is None:
            return Secret(text)
        left = int(found.expires - self._clock())
        if left <= 0:
            raise SourceFailed("its source gave keys whose time is over", _HINT)
        return Secret(text, max(left - MARGIN, left // 2, 1))  # short ones: for half of their time

    def stop(self) -> None:
        """End a read that runs in another thread."""
        self._reader.stop()


class PartsReader:
    """Reads each part of the keys from a source of its own, and returns them as that JSON."""

    def __init__(self, key_id: Reader, secret_key: Reader, session_token: Reader | None) -> None:
        self._parts = {KEY_ID: key_id, SECRET_KEY: secret_key}
        if session_token is not None:
            self._parts[SESSION_TOKEN] = session_token

    def read(self) -> Secret:
        """Return the JSON. Raises SourceFailed."""
        found: dict[str, object] = {"Version": 1}
        for name, reader in self._parts.items():
            try:
                found[name] = reader.read().reveal().decode("ascii")
            except UnicodeDecodeError:
                raise SourceFailed(f"{name} has another character than ASCII", _HINT) from None
        return Secret(msgspec.json.encode(found))

    def stop(self) -> None:
        """End the reads that run in another thread."""
        for reader in self._parts.values():
            reader.stop()


def keys_source(
    sources: Sequence[Source], readers: Sequence[Reader], ttl: int | None
) -> SecretSource:
    """Return the source of keys, from one source or from two or three."""
    kinds = {one.kind for one in sources}
    reader: Reader = AwsKeysReader(readers[0])
    if len(readers) > 1:
        reader = PartsReader(readers[0], readers[1], readers[2] if len(readers) > 2 else None)
    if kinds <= {ENVIRONMENT, FILE}:  # a file is looked at for each request
        return SecretSource(FILE if FILE in kinds else ENVIRONMENT, reader, ttl)
    return SecretSource(COMMAND, reader, ttl)


def hold_keys(credential: Credential, source: SecretSource) -> HeldAwsKeys:
    """Return the keys with stand-ins of the same shape. Raises UsageError."""
    text = source.at_start.reveal()
    try:
        stand_ins = stand_ins_like(parse_keys(text).keys, secrets.randbelow)
    except BadAwsKeys as bad:
        raise UsageError(f"credential {credential.name}: {bad.reason}", hint=_HINT) from None
    except UnfitSecret as unfit:
        raise UsageError(
            f"credential {credential.name}: a part of the keys {unfit.reason}",
            hint="it could not be told from other text; see what its source gives",
        ) from None
    return HeldAwsKeys(credential, stand_ins.access_key_id, text, source, stand_ins=stand_ins)


@dataclass(frozen=True, slots=True, eq=False)
class HeldAwsKeys(HeldSecret):
    """AWS keys with their stand-ins; `stand_in` is the id of those."""

    stand_ins: AwsKeys = field(repr=False, kw_only=True)

    async def keys(self) -> AwsKeys:
        """Return the real keys now. Raises SecretUnavailable."""
        try:
            return parse_keys((await self.source.current()).reveal()).keys
        except BadAwsKeys as bad:
            raise SourceFailed(bad.reason, _HINT) from None

    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """As `HeldSecret.pairs`: of each part."""
        real = parse_keys(self.at_start).keys
        return tuple(zip(real.texts(), self.stand_ins.texts(), strict=True))

    def values(self) -> dict[str, bytes]:
        """As `HeldSecret.values`: a part for each variable, and none without a session token."""
        return dict(zip(self.credential.variables, self.stand_ins.texts(), strict=False))
