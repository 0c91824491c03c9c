"""Guards a request to a host for which a key signs (AWS Signature Version 4).

The client has signed with stand-ins. Its signature is checked with them before the request is
recorded; what goes out is signed by the real keys, after the record.

Rules of this file:
- A request that is signed by anything but the stand-in is refused. One without a signature goes on
  as it is.
- The signature must be for the region and service of the host.
- A call whose answer may have real keys is refused.
- A body is read whole only if the signature has its hash and the client did not declare it, or if
  it names the call. The session has room for some of them; a request that finds none is refused.
- The signing key is made of the secret, which itself is never sent.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET
from msgspec.structs import replace

from nono_trio.core.credentials.aws_calls import IN_BODY, answers_with_keys
from nono_trio.core.credentials.aws_scope import is_for_host
from nono_trio.core.credentials.aws_signature import BadSignature, is_over, read_signature
from nono_trio.core.credentials.credential import Place
from nono_trio.core.credentials.sigv4 import MAX_BODY, find_spelling, payload_hash, sign
from nono_trio.core.credentials.swap import Spot
from nono_trio.core.http.header_fields import with_length
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.proxy.access.decision import CredentialUse, Refusal
from nono_trio.proxy.credentials.interfaces import MustNotGoOn, SecretUnavailable
from nono_trio.proxy.credentials.refusals import unusable
from nono_trio.proxy.credentials.request_guard import (
    SECRET_SECONDS,
    RequestGuard,
    SwappedRequest,
    whole_body,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.credentials.aws_keys import AwsKeys
    from nono_trio.core.credentials.aws_signature import Signature
    from nono_trio.core.credentials.sigv4 import Spelling
    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.credentials.origin import OriginCredentials
    from nono_trio.proxy.credentials.shown import ShownTexts
    from nono_trio.proxy.credentials.signing import HeldBodies, SigningCredential

_SCHEME_END: Final = "://"


class SigningGuard(RequestGuard):
    """Guards one request to an origin with credentials that sign."""

    __slots__ = ("__weakref__", "_bodies", "_payload", "_signature", "_signer", "_spelling")

    def __init__(
        self,
        origin: OriginCredentials,
        scheme: str,
        shown: ShownTexts,
        note_left: Callable[[Sequence[Spot]], None],
        bodies: HeldBodies,
    ) -> None:
        super().__init__(origin, scheme, shown, note_left)
        self._bodies = bodies
        self._signature: Signature | None = None
        self._signer: SigningCredential | None = None
        self._payload: bytes | None = None
        self._spelling: Spelling | None = None

    @property
    def max_body(self) -> int:
        """As `RequestGuard.max_body`; more for a body that is hashed, which has room of its own."""
        return MAX_BODY if self._waits else super().max_body

    def judge_head(self, request: HttpRequest, decision: Decision) -> Decision:
        """As `RequestGuard.judge_head`; also with a signature that can be checked by now."""
        decision = super().judge_head(request, decision)
        if decision.refusal is not None:
            return decision
        try:
            return self._judge_signature(request, decision)
        except BadSignature as bad:
            return decision.refused(_refusal(bad))

    def wants_body(self, request: HttpRequest) -> bool:
        """As `RequestGuard.wants_body`; also for a body that is hashed."""
        return self._waits or super().wants_body(request)

    def judge_body(self, request: HttpRequest, decision: Decision) -> Decision:
        """As `RequestGuard.judge_body`; also with the signature over a body."""
        decision = super().judge_body(request, decision)
        signature = self._signature
        if decision.refusal is not None or signature is None or not self._waits:
            return decision
        data, is_whole = whole_body(request)
        if not is_whole or len(data) > MAX_BODY:
            return decision.refused(_too_long())
        try:
            self._check(request, signature.payload or payload_hash(data), data)
        except BadSignature as bad:
            return decision.refused(_refusal(bad))
        return decision

    async def swap(
        self, target: bytes, fields: Sequence[Field], request: HttpRequest
    ) -> SwappedRequest:
        """As `RequestGuard.swap`; a signed request is signed anew, and has other fields then."""
        swapped = await super().swap(target, fields, request)
        signature, signer = self._signature, self._signer
        if signature is None or signer is None:
            return swapped
        if self._payload is None or self._spelling is None:
            raise MustNotGoOn(_too_long())
        keys = await _keys(signer)
        fields, payload = swapped.fields, self._payload
        if swapped.body is not None:
            payload = payload_hash(swapped.body)
            fields = with_length(fields, len(swapped.body))
        method, host = request.head.method.encode("ascii"), (b"host", request.target.authority)
        signed = sign(
            signature, self._spelling, method, swapped.target, [host, *fields], keys, payload,
            time.time(),
        )  # fmt: skip
        lower = [(name.lower(), value) for name, value in signed.fields]
        return SwappedRequest(
            signed.target, [one for one in lower if one[0] != b"host"], swapped.body
        )

    @property
    def _waits(self) -> bool:
        """True if the body must be read before the signature can be checked."""
        return self._signature is not None and self._payload is None

    def _judge_signature(self, request: HttpRequest, decision: Decision) -> Decision:
        """Find the signature; check it, unless the body is needed. Raises BadSignature."""
        head = request.head
        signature = read_signature(_origin_form(head.target), head.fields)
        if signature is None:
            return decision
        signer = next(
            (one for one in self._origin.signing if one.stand_ins.has_id(signature.key_id)), None
        )
        if signer is None:
            raise BadSignature("is of another key than the stand-in")
        self._signature, self._signer = signature, signer
        region, service = signature.region.decode(), signature.service.decode()
        if not is_for_host(region, service, request.host.name):
            raise BadSignature("is for another region or service than the host's")
        if is_over(signature, time.time()):
            raise BadSignature("holds no longer")
        if head.body == "none":
            self._check(request, signature.payload or payload_hash(b""), b"")
        elif signature.payload is not None and signature.service not in IN_BODY:
            self._check(request, signature.payload, b"")
        elif head.length > MAX_BODY:
            return decision.refused(_too_long())
        elif not self._bodies.take(self, head.length or MAX_BODY):
            return decision.refused(_no_room())
        return self._with_use(decision, signer, is_presigned=signature.is_presigned)

    def _check(self, request: HttpRequest, payload: bytes, body: bytes) -> None:
        """Check the signature over a payload, and what is asked for. Raises BadSignature."""
        signature, signer, head = self._signature, self._signer, request.head
        if signature is None or signer is None:
            raise AssertionError("the request has no signature")
        method, target = head.method.encode("ascii"), _origin_form(head.target)
        self._spelling = find_spelling(
            signature, method, target, head.fields, signer.stand_ins, payload
        )
        if answers_with_keys(signature.service, target, body):
            raise BadSignature(
                "is for a call whose answer may have real keys",
                "have the source of the credential make the keys, as in source ="
                ' "cmd://aws configure export-credentials --profile NAME"',
            )
        self._payload = payload

    def _with_use(
        self, decision: Decision, signer: SigningCredential, *, is_presigned: bool
    ) -> Decision:
        name = signer.credential.name
        self._used.setdefault(name, Spot(name, Place.QUERY if is_presigned else Place.HEADER))
        use = decision.credentials or CredentialUse()
        mode = "query_param" if is_presigned else "header"
        use = replace(
            use, swapped=(*use.swapped, name), mode=mode if use.mode is UNSET else use.mode
        )
        return replace(decision, credentials=use)


async def _keys(signer: SigningCredential) -> AwsKeys:
    name = signer.credential.name
    with trio.move_on_after(SECRET_SECONDS):
        try:
            return await signer.keys()
        except SecretUnavailable as fault:
            raise MustNotGoOn(unusable(name, fault.reason)) from None
    raise MustNotGoOn(unusable(name, f"it did not come within {SECRET_SECONDS:g} seconds"))


def _origin_form(target: str) -> bytes:
    """Return the path and the query of a target; one in absolute-form loses its authority."""
    if not target.startswith("/") and _SCHEME_END in target:
        rest = target.partition(_SCHEME_END)[2]
        at = min((rest.index(mark) for mark in "/?" if mark in rest), default=len(rest))
        target = rest[at:] if rest[at:].startswith("/") else f"/{rest[at:]}"
    return target.encode("latin-1")


def _refusal(bad: BadSignature) -> Refusal:
    reason = format_reason(DenialCode.SIGNATURE_REFUSED, detail=bad.reason)
    return Refusal(403, reason, bad.hint, "host_denied")


def _too_long() -> Refusal:
    detail = f"is over a body of more than {MAX_BODY // (1024 * 1024)} MiB"
    hint = "have the client send X-Amz-Content-Sha256, or cut the body in parts"
    return Refusal(
        413, format_reason(DenialCode.SIGNATURE_REFUSED, detail=detail), hint, "host_denied"
    )


def _no_room() -> Refusal:
    return Refusal(503, format_reason(DenialCode.PROXY_FULL), "try again")
