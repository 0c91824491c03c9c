"""The refusals of requests that protect a credential.

They name the credential and the part of the request, never the stand-in or the secret.
"""

from __future__ import annotations

from typing import Final

from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import Refusal

HEAD: Final = "the head of the request"
BODY: Final = "the body of the request"
TRAILERS: Final = "the end of the request"
MESSAGE: Final = "a WebSocket message"
HOST_NAME: Final = "the host name"

_HINT: Final = (
    "if this host should get the secret, bind it to the credential; to let its stand-in pass"
    ' elsewhere, write elsewhere = "audit" for it in a profile'
)


def exfiltration(name: str, part: str, *, is_late: bool = False) -> Refusal:
    """Refuse a request with the stand-in of credential `name` in one `part`. `is_late`: the request
    is on its way, after the record that allowed it."""
    code = DenialCode.EXFILTRATION_LATE if is_late else DenialCode.EXFILTRATION
    return Refusal(403, format_reason(code, detail=part, credential=name), _HINT, "host_denied")


def unusable(name: str, detail: str, hint: str | None = None) -> Refusal:
    """Refuse a request because the secret of credential `name` can't be sent with it."""
    reason = format_reason(DenialCode.SECRET_UNUSABLE, credential=name, detail=detail)
    return Refusal(503, reason, hint, "managed_credential_unavailable")
