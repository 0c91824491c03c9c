"""The credentials of a session as the proxy needs them: by the origin of a request, and by name.

Rules of this file:
- A stand-in that is not bound to the origin of a request is searched for in that request. A bound
  one is swapped there, and may be anywhere in it.
- The command chooses hosts, so what is remembered of them is bounded.
- No `repr` here shows a stand-in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.credentials.credential import Place
from nono_trio.core.credentials.swap import MAX_BODY, Spot, Swap
from nono_trio.core.log.redaction import REDACTED
from nono_trio.proxy.credentials.origin import OriginCredentials, search_for
from nono_trio.proxy.credentials.refusals import HOST_NAME, exfiltration
from nono_trio.proxy.credentials.request_guard import RequestGuard
from nono_trio.proxy.credentials.shown import ShownTexts
from nono_trio.proxy.credentials.signing import HeldBodies, is_signing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.access.decision import Decision, Refusal
    from nono_trio.proxy.credentials.interfaces import HeldCredential
    from nono_trio.proxy.credentials.token_requests import Login

MAX_ORIGINS: Final = 1024  # remembered; all are dropped when full. Each is 200 bytes
MAX_LEFT: Final = 32  # stand-ins in other places that are noted; the command names the places

_PLACES: Final = {
    Place.HEADER: "the header",
    Place.BASIC: "a part of its Basic authorization",
    Place.QUERY: "the query parameter",
    Place.PATH: "the path",
    Place.BODY: "the body",
}
# The keys of a profile that say where a stand-in is swapped.
_KEYS: Final = {
    Place.HEADER: "headers",
    Place.BASIC: "places",
    Place.QUERY: "places and parameters",
    Place.PATH: "places",
    Place.BODY: "places",
}
# The values that are swapped in a place of a credential.
_ONLY: Final = {
    Place.HEADER: "only a whole token is",
    Place.BASIC: "only a whole user or password is",
    Place.QUERY: "only a whole value is",
    Place.PATH: "only a path from the root is",
    Place.BODY: "only strings of JSON and values of forms are, without an encoding, in a body of at"
    f" most {MAX_BODY // 1024} KiB",
}


class Credentials:
    """All credentials of a session. `held` are those that have a stand-in.

    It is made once, before the proxy serves, and given to `Proxy`.
    """

    def __init__(self, held: Sequence[HeldCredential], logins: Sequence[Login] = ()) -> None:
        """`logins` have more of them, and others after each sign-in."""
        self._fixed = tuple(held)
        self.bodies = HeldBodies()  # that wait to be hashed
        self.logins = tuple(logins)
        for one in self.logins:
            one.changed = self._renew
        self.left: dict[Spot, None] = {}
        """Stand-ins that came to their own host in a place where they are not swapped. `part` is
        text of the command."""
        self._renew()

    def _renew(self) -> None:
        """Take the credentials as they are now; requests on their way have those of before."""
        of_logins = (held for one in self.logins for held in one.held)
        self._held: tuple[HeldCredential, ...] = (*self._fixed, *of_logins)
        self._origins: dict[tuple[str, str, int], OriginCredentials] = {}
        self._by_bound: dict[tuple[tuple[int, ...], ...], OriginCredentials] = {}
        self._shown = ShownTexts(search_for(self._held))
        self._refused = search_for([one for one in self._held if not _passes(one)])
        self._passed = search_for([one for one in self._held if _passes(one)])

    def __repr__(self) -> str:
        return f"Credentials({len(self._held)})"

    def has_token_url(self, host: Host) -> bool:
        """Return True if answers of a host may have tokens of a login."""
        return any(one.settings.is_at_host(host) for one in self.logins)

    def at(self, scheme: str, host: Host, port: int) -> OriginCredentials:
        """Return what holds for requests to an origin; `scheme` is http or https."""
        key = (scheme, host.name, port)
        found = self._origins.get(key)
        if found is None:
            bound = tuple(
                number
                for number, one in enumerate(self._held)
                if one.credential.is_bound_to(scheme, host, port)
            )
            known = tuple(
                number
                for number, one in enumerate(self._held)
                if number in bound or _is_known(one, host)
            )
            found = self._by_bound.get((bound, known))
            if found is None:
                found = self._by_bound[bound, known] = self._made(bound, known)
            if len(self._origins) >= MAX_ORIGINS:
                self._origins.clear()
            self._origins[key] = found
        return found

    def guard(self, scheme: str, host: Host, port: int) -> RequestGuard:
        """Return the guard of one request to an origin."""
        origin = self.at(scheme, host, port)
        if not origin.signing:
            return RequestGuard(origin, scheme, self._shown, self._note_left)
        from nono_trio.proxy.credentials.signing_guard import SigningGuard  # late: few have any

        return SigningGuard(origin, scheme, self._shown, self._note_left, self.bodies)

    def judge_name(self, decision: Decision) -> Decision:
        """Return the decision about a host, now that its name was searched: no host is bound to a
        stand-in in its own name."""
        name = self.find_in_name(decision.target)
        if name is None:
            return decision
        refusal = self.refused_name(decision.target)
        shown = self.shown_name(decision.target)
        if refusal is not None:
            return replace(decision.refused(refusal), target=shown)
        if decision.refusal is not None:
            reason = decision.refusal.reason.replace(decision.target, shown)
            decision = decision.refused(replace(decision.refusal, reason=reason))
        return replace(decision.with_passed_on(name), target=shown)

    def refused_name(self, name: str) -> Refusal | None:
        """Return the refusal of a host name that has a stand-in; None for any other one."""
        found = self._refused
        number = None if found is None else found.search.find_in_name(name)
        if found is None or number is None:
            return None
        return exfiltration(found.names[number], HOST_NAME)

    def find_in_name(self, name: str) -> str | None:
        """Return the name of a credential whose stand-in occurs in a host name. One that is refused
        comes before one that passes."""
        for found in (self._refused, self._passed):
            number = None if found is None else found.search.find_in_name(name)
            if found is not None and number is not None:
                return found.names[number]
        return None

    def shown_name(self, name: str) -> str:
        """Return a host name as the record shows it: one that has a stand-in by its last labels."""
        if self.find_in_name(name) is None:
            return name
        labels = name.split(".")
        for count in (2, 1):
            end = ".".join(labels[-count:])
            if len(labels) > count and self.find_in_name(end) is None:
                return f"{REDACTED}.{end}"
        return REDACTED

    def event(self, decision: Decision, now: int) -> NetworkEvent:
        """As `Decision.event`, with texts that show no stand-in; a tool may be named after one."""
        return self._shown.event(self._shown_fault(decision).event(now))

    def _shown_fault(self, decision: Decision) -> Decision:
        """Return a refusal as the record shows it: why a host was not reached may name the host."""
        refusal, host = decision.refusal, decision.host
        if refusal is None or host is None or self.find_in_name(host.name) is None:
            return decision
        reason = refusal.reason.replace(host.name, self.shown_name(host.name))
        return decision.refused(replace(refusal, reason=reason))

    def shown_text(self, text: str) -> str:
        """Return a text of the command's without the parts that have a stand-in; in any thread."""
        return self._shown.text(text)

    def without_stand_ins(self, decision: Decision) -> Decision:
        """Return the decision with texts that show no stand-in."""
        return self._shown.without_stand_ins(decision)

    def notes(self) -> list[str]:
        """Return a sentence for the user about each place of a stand-in that stayed."""
        return [
            f"the stand-in of credential {one.name} came to its own host in {_PLACES[one.place]}"
            f"{' ' + ascii(one.part) if one.part else ''}, where it is not swapped"
            f" ({self._what_helps(one)})"
            for one in self.left
        ]

    def _what_helps(self, spot: Spot) -> str:
        one = next((one.credential for one in self._held if one.credential.name == spot.name), None)
        part = spot.part.lower()
        if one is not None and spot.place in one.places:
            # It stayed for another reason if its field or parameter is not one of the credential's.
            named = {Place.HEADER: one.headers, Place.QUERY: one.parameters}.get(spot.place)
            if named is None or part in named:
                return _ONLY[spot.place]
        return f"to swap it: {_KEYS[spot.place]} of credentials.{spot.name} in a profile"

    def _note_left(self, spots: Iterable[Spot]) -> None:
        """Note stand-ins that stayed where they are, on their own host."""
        for spot in spots:
            if len(self.left) < MAX_LEFT:
                self.left[spot] = None

    def _made(self, bound: tuple[int, ...], known: tuple[int, ...]) -> OriginCredentials:
        others = [one for number, one in enumerate(self._held) if number not in known]
        here = tuple(self._held[number] for number in bound)
        # A key that signs is never sent itself.
        swapped = tuple(one for one in here if not is_signing(one))
        return OriginCredentials(
            swapped,
            tuple(map(_swap, swapped)),
            search_for([one for one in others if not _passes(one)]),
            search_for([one for one in others if _passes(one)]),
            search_for([one for one in swapped if Place.BODY in one.credential.places]),
            tuple(one for one in here if is_signing(one)),
        )


def _passes(held: HeldCredential) -> bool:
    """Return True if the stand-in may go to hosts that it is not bound to, and is noted."""
    return held.credential.elsewhere == "audit"


def _is_known(held: HeldCredential, host: Host) -> bool:
    """Return True for a token at the host that gave it: there its stand-in reveals nothing new."""
    login = held.credential.login
    return login is not None and login.is_at_host(host)


def _swap(held: HeldCredential) -> Swap:
    """How a stand-in is swapped, with itself for the secret."""
    one = held.credential
    stand_in = held.stand_in
    return Swap(one.name, stand_in, stand_in, one.places, one.headers, one.parameters)
