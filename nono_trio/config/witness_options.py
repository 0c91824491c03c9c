"""--witness URL or URL#NAME+ID+KEY: who cosigns the ledger's checkpoints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.core.credentials.token_url import TokenUrl, parse_service_url
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.rule import is_localhost
from nono_trio.core.proof.witness import CALL, WitnessKey, parse_witness_key
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

WITNESS_FLAG: Final = "--witness"
# They are asked one after the other at the end of a run.
MAX_WITNESSES: Final = 4
_FORM: Final = f"as in {WITNESS_FLAG} https://witness.example.com"
_URL: Final = late_pattern(r"https?://[^/?@\s]+(/[^?@\s]*)?", re.IGNORECASE)


class WitnessOption(NamedTuple):
    """`text` is the submission prefix as the user wrote it, `url` that of the call; `key` is what
    its cosignatures are checked with."""

    text: str
    url: TokenUrl
    key: WitnessKey | None


def parse_witnesses(texts: Sequence[str]) -> list[WitnessOption]:
    """Parse the values of the flag. Raises UsageError."""
    if len(texts) > MAX_WITNESSES:
        raise UsageError(
            f"{WITNESS_FLAG}: expected at most {MAX_WITNESSES} witnesses, got {len(texts)}",
            hint=f"leave out {len(texts) - MAX_WITNESSES} of them",
        )
    return [_parse(text) for text in texts]


def _parse(text: str) -> WitnessOption:
    prefix, separator, vkey = text.partition("#")
    if not _URL.fullmatch(prefix):  # not shown where it may have a password
        shown = "a URL with a user" if "@" in prefix else f"{prefix!a}"
        expected = "expected https://HOST[:PORT][/PATH] without a query"
        raise UsageError(f"{WITNESS_FLAG}: {expected}, got {shown}", hint=_FORM)
    try:
        url = parse_service_url(WITNESS_FLAG, prefix.rstrip("/") + CALL)
    except UsageError as error:
        reason = error.message.rpartition("': ")[2]
        raise UsageError(f"{WITNESS_FLAG} {prefix!a}: {reason}", hint=_FORM) from None
    address = url.host.address
    is_local = address.is_loopback if address is not None else is_localhost(url.host.name)
    if url.scheme == "http" and not is_local:
        raise UsageError(
            f"{WITNESS_FLAG} {prefix!a}: http:// is for this machine alone", hint="write https://"
        )
    try:
        key = parse_witness_key(vkey) if separator else None
    except ValueError as error:
        raise UsageError(
            f"{WITNESS_FLAG} {prefix!a}: {error}",
            hint="as in https://w.example.com/add#NAME+ID+KEY",
        ) from error
    return WitnessOption(prefix, url, key)
