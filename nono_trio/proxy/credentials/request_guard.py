"""Searches one request for stand-ins, and swaps those of credentials that are bound to its origin.

The order is: the head is judged, the body is read whole if a stand-in may be swapped in it, what
came of the body is judged, the decision is recorded, the secrets are asked for, and only then does
anything go out. A body that still comes is searched by `body_search`.

Rules of this file:
- A request with a stand-in that must not go to its origin is refused for that, also if policy
  refuses the host or only observes.
- Rules have judged the request before a secret is in it.
- A request goes out without any stand-in that its places say is swapped, or not at all.
- Neither a secret nor a stand-in is in a decision.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from dataclasses import replace as with_secret
from typing import TYPE_CHECKING, Final

import trio
from msgspec import UNSET
from msgspec.structs import replace

from nono_trio.core.credentials.credential import Place
from nono_trio.core.credentials.swap import (
    INJECTION_MODES,
    MAX_BODY,
    SecretUnfit,
    Spot,
    is_swappable,
    stand_ins_in_body,
    stand_ins_in_head,
    swap_body,
    swap_head,
)
from nono_trio.core.http.message import BodyData
from nono_trio.core.net.address import AddressClass, classify, parse_address
from nono_trio.proxy.access.decision import CredentialUse
from nono_trio.proxy.credentials.body_search import BodySearch, WebSocketSearch
from nono_trio.proxy.credentials.interfaces import MustNotGoOn, SecretUnavailable
from nono_trio.proxy.credentials.refusals import BODY, HEAD, TRAILERS, exfiltration, unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nono_trio.core.credentials.swap import Swap, Swapped
    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.access.authorizer import HttpRequest
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.credentials.interfaces import HeldCredential
    from nono_trio.proxy.credentials.origin import OriginCredentials
    from nono_trio.proxy.credentials.shown import ShownTexts
    from nono_trio.proxy.credentials.token_requests import TokenRequest

SECRET_SECONDS: Final = 15.0  # for all secrets of a request; a source has 10 for its command
UNAUTHORIZED: Final = 401  # RFC 9110 15.5.2
# A refusal of these is about where the request goes. Others are about its form, or the token.
_JUDGED: Final = frozenset({"host_denied", "endpoint_policy"})
_IDENTITY: Final = b"identity"


@dataclass(frozen=True, slots=True)
class SwappedRequest:
    """The target and fields that go out in place of a request's own; `body` is None if it stays the
    same. All may have secrets."""

    target: bytes = field(repr=False)
    fields: Sequence[Field] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)


class RequestGuard:
    """Guards one request to one origin."""

    __slots__ = ("_note_left", "_origin", "_scheme", "_shown", "_used", "tokens")

    def __init__(
        self,
        origin: OriginCredentials,
        scheme: str,
        shown: ShownTexts,
        note_left: Callable[[Sequence[Spot]], None],
    ) -> None:
        """`note_left` gets stand-ins that stay, on their own host."""
        self._origin = origin
        self._scheme = scheme
        self._shown = shown
        self._note_left = note_left
        self._used: dict[str, Spot] = {}
        self.tokens: TokenRequest | None = None
        """Set for a request to the token URL of a captured login."""

    @property
    def searches(self) -> bool:
        """True if there are stand-ins that the request must not carry, or that are noted."""
        return self._origin.refused is not None or self._origin.passed is not None

    @property
    def looks_on(self) -> bool:
        """True if what still comes of the request is searched, whatever for."""
        return self.searches or self._origin.in_bodies is not None

    @property
    def swaps(self) -> bool:
        """True if a stand-in of the request is to be swapped."""
        return bool(self._used)

    @property
    def max_body(self) -> int:
        """Bytes of a body that is read whole, if `wants_body`."""
        return MAX_BODY

    @property
    def sends_secrets(self) -> bool:
        """True if a secret goes out with the request."""
        return self.swaps or (self.tokens is not None and self.tokens.has_tokens)

    def judge_head(self, request: HttpRequest, decision: Decision) -> Decision:
        """Return the decision about the request, now that its head was searched."""
        refusal = decision.refusal
        if refusal is not None and refusal.category not in _JUDGED:
            return self._shown.without_stand_ins(decision)
        head, path = request.head, request.target.path
        # The path that goes out may differ from the one that came.
        decision = self._searched(decision, head.raw + b"\n" + path, HEAD)
        decision = self._searched_names(decision, head.fields, HEAD)
        if self._origin.swaps and decision.refusal is None:
            found = stand_ins_in_head(path, head.fields, self._origin.swaps)
            decision = self._with_swaps(decision, found)
        return self._shown.without_stand_ins(decision)

    def wants_body(self, request: HttpRequest) -> bool:
        """Return True if the body must be read whole, up to MAX_BODY bytes: a stand-in may have to
        be swapped in it."""
        head = request.head
        if head.body == "none" or head.length > MAX_BODY:
            return False
        if all(Place.BODY not in one.places for one in self._origin.swaps):
            return False
        encodings = [value for name, value in head.fields if name == b"content-encoding"]
        if any(value.strip().lower() != _IDENTITY for value in encodings):
            return False
        return is_swappable(head.first(b"content-type"))

    def judge_body(self, request: HttpRequest, decision: Decision) -> Decision:
        """Return the decision about a request, now that what came of its body was searched."""
        data, is_whole = whole_body(request)
        if not data or decision.refusal is not None:
            return decision
        decision = self._searched(decision, data, BODY)
        trailers = request.body.trailers if is_whole else ()
        if trailers:
            text = b"\n".join(part for one in trailers for part in one)
            decision = self._searched(decision, text, TRAILERS)
            decision = self._searched_names(decision, trailers, TRAILERS)
        if decision.refusal is None and self._origin.swaps and is_whole and len(data) <= MAX_BODY:
            kind = request.head.first(b"content-type")
            found = stand_ins_in_body(kind, data, self._body_swaps(request))
            decision = self._with_swaps(decision, found)
        elif is_whole and (own := self._origin.in_bodies) is not None and (name := own.find(data)):
            self._note_in_body(name)  # it is too long
        return decision

    def body_search(self, request: HttpRequest, decision: Decision) -> BodySearch | None:
        """Return what searches the body that still comes; None if there is nothing to search, or
        `judge_body` has searched all of it."""
        if request.body.done or not self.looks_on:
            return None
        use = decision.credentials
        return BodySearch(
            self._origin,
            noted=() if use is None else use.passed_on,
            note_left=self._note_in_body,
        )

    def websocket_search(self) -> WebSocketSearch | None:
        """Return what searches the messages of a WebSocket; None if there is nothing to search."""
        return WebSocketSearch(self._origin) if self.searches else None

    async def swap(
        self, target: bytes, fields: Sequence[Field], request: HttpRequest
    ) -> SwappedRequest:
        """Return what goes out. `fields` have lower-case names. Raises MustNotGoOn.

        The secrets are asked for each time, since they may have changed. If cancelled, nothing has
        changed.
        """
        swaps = await self._with_secrets()
        try:
            head = swap_head(target, fields, swaps)
            data, is_whole = whole_body(request)
            if not data or not is_whole or len(data) > MAX_BODY:
                return SwappedRequest(head.target, head.fields)
            names = {one.name for one in self._body_swaps(request) if Place.BODY in one.places}
            in_body = [one for one in swaps if one.name in names]
            body = swap_body(request.head.first(b"content-type"), data, in_body)
        except SecretUnfit as unfit:
            detail = unfit.reason.partition(f"{unfit.name} ")[2]
            raise MustNotGoOn(unusable(unfit.name, f"it {detail}")) from None
        return SwappedRequest(
            head.target, head.fields, body.data if body.data is not data else None
        )

    def note_status(self, status: int | None) -> None:
        """Take the status of the host's answer: 401 says that a secret is not valid."""
        if status != UNAUTHORIZED:
            return
        for held in self._origin.bound:
            if held.credential.name in self._used:
                held.refused()

    def check_address(self, address: str, host: Host, *, is_proxied: bool) -> None:
        """Raise MustNotGoOn if a secret would go to a public address in clear, or to an upstream
        proxy, which chooses the address. `address` is what was reached for `host`."""
        if self._scheme != "http" or not self.sends_secrets:
            return
        name = next(iter(self._used), "" if self.tokens is None else self.tokens.name)
        if is_proxied:
            detail = "it would go to the upstream proxy in clear"
            hint = f"have the host reached directly: --upstream-bypass {host.bracketed()}"
            raise MustNotGoOn(unusable(name, detail, hint))
        parsed = parse_address(address)
        if parsed is None or classify(parsed) is AddressClass.PUBLIC:
            raise MustNotGoOn(unusable(name, "it would cross the network in clear"))

    def _searched(self, decision: Decision, data: bytes, part: str) -> Decision:
        """The decision after a search in one part of the request."""
        refused, passed = self._origin.refused, self._origin.passed
        if refused is not None and (name := refused.find(data)) is not None:
            return decision.refused(exfiltration(name, part))
        if passed is not None and (name := passed.find(data)) is not None:
            return decision.with_passed_on(name)
        return decision

    def _searched_names(self, decision: Decision, fields: Iterable[Field], part: str) -> Decision:
        """The decision after a search in the names of fields."""
        refused, passed = self._origin.refused, self._origin.passed
        if refused is not None and (name := refused.find_in_fields(one for one, _ in fields)):
            return decision.refused(exfiltration(name, part))
        if passed is not None and (name := passed.find_in_fields(one for one, _ in fields)):
            return decision.with_passed_on(name)
        return decision

    def _with_swaps(self, decision: Decision, found: Swapped) -> Decision:
        """The decision with what will be swapped. What stays is noted for the end of the run."""
        self._note_left(found.left)
        if not found.done:
            return decision
        use = decision.credentials or CredentialUse()
        for spot in found.done:
            self._used.setdefault(spot.name, spot)
        modes = [INJECTION_MODES[one.place] for one in found.done if one.place in INJECTION_MODES]
        in_body = {one.name: None for one in found.done if one.place is Place.BODY}
        use = replace(
            use,
            swapped=(*dict.fromkeys((*use.swapped, *(one.name for one in found.done))),),
            mode=modes[0] if modes and use.mode is UNSET else use.mode,
            in_body=(*dict.fromkeys((*use.in_body, *in_body)),),
        )
        return replace(decision, credentials=use)

    def _note_in_body(self, name: str) -> None:
        """Note a stand-in that stays in a body."""
        self._note_left([Spot(name, Place.BODY)])

    def _body_swaps(self, request: HttpRequest) -> list[Swap]:
        """How stand-ins are swapped in the body of a request; without a place in one that is not
        plain JSON or a form."""
        if self.wants_body(request):
            return [*self._origin.swaps]
        return [with_secret(one, places=one.places - {Place.BODY}) for one in self._origin.swaps]

    async def _with_secrets(self) -> list[Swap]:
        """How the stand-ins of the request are swapped. Raises MustNotGoOn."""
        found: list[Swap] = []
        name = ""
        with trio.move_on_after(SECRET_SECONDS) as scope:
            for held, swap in zip(self._origin.bound, self._origin.swaps, strict=True):
                if swap.name in self._used:
                    name = swap.name
                    found.append(with_secret(swap, secret=await _secret(held)))
        if scope.cancelled_caught:
            detail = f"it did not come within {SECRET_SECONDS:g} seconds"
            raise MustNotGoOn(unusable(name, detail))
        return found


async def _secret(held: HeldCredential) -> bytes:
    try:
        return await held.secret()
    except SecretUnavailable as fault:
        raise MustNotGoOn(unusable(held.credential.name, fault.reason)) from None


def whole_body(request: HttpRequest) -> tuple[bytes, bool]:
    """Return what came of a body before anything was sent, and whether that is all of it."""
    pieces = [event.data for event in request.early if type(event) is BodyData]
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    return data, request.body.done
