"""The session token: whoever has it is the caged child, everyone else gets a 407.

The comparison takes the same time whatever was presented. The token itself never leaves this
file: not in an answer, not in an event, not in a `repr`.
"""

from __future__ import annotations

import hmac
from typing import Final

from nono_trio.core.policy.reasons import DenialCode, format_reason

MISSING: Final = format_reason(DenialCode.TOKEN_MISSING)
WRONG: Final = format_reason(DenialCode.TOKEN_WRONG)
HINT: Final = "use the proxy URL with its user and password, as it stands in HTTP_PROXY"


class Token:
    """The token of one session."""

    __slots__ = ("_secret",)

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode("ascii")

    def matches(self, presented: bytes) -> bool:
        """Whether `presented` is the token; bytes, because `str` outside ASCII is a TypeError."""
        return hmac.compare_digest(presented, self._secret)
