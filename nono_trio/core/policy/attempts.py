"""Attempts of a session, folded from its records: what was denied, what failed, what was allowed.

The one place that counts. The end of a run, its exit code, `list`, `show` and `verify` all take
their numbers from here.

Rules of this file:
- One attempt has one outcome. A name that was looked up and then tried is one attempt. A second
  decision about an allowed request (a dead host, a closed address, a wrong TLS hello) replaces the
  first. A CONNECT and the first HTTP request inside it are one attempt, also if TLS ends here; the
  record of that TLS is no attempt of its own.
- Failed is what the policy allowed and the network did not give. Only a denied attempt is one that
  the policy refused.
- Not counted: a request without the proxy's token, since a client may wait to be asked and another
  program may have sent it; a refused connection to loopback, since wait-for-port loops make many; a
  look-up of a file. Counted is the record that the end of a run has of each host that the command
  itself asked for and never sent the token for.
- `unseen` counts what left no record and may have been anything: a check that depends on seeing it
  can't pass.
- A repeat that the throttles left out is no attempt of its own; `repeats` counts those. A denied
  attempt for which they had no room has no such record before it: `beyond` counts it.
- A command chooses the names, so every table here has a bound; what no longer fits is counted
  without its name.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.log.events import Network
from nono_trio.core.log.file_events import (
    MORE_FILES,
    denied_request,
    real_path,
    unseen_count,
)
from nono_trio.core.log.nono_events import CapabilityDecision
from nono_trio.core.log.notices import DIRECT_TARGET, NO_TOKEN, is_about_log, lost_events
from nono_trio.core.log.session_json import AttemptTotals
from nono_trio.core.policy.allow_entry import LOOK_UP, DeniedHost, entry
from nono_trio.core.policy.outcome import FAILED_CATEGORIES, is_counted, outcome_of, read_reason
from nono_trio.core.policy.reasons import DenialCode
from nono_trio.core.policy.request_note import parse_note

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nono_trio.core.log.events import NetworkEvent, Payload
    from nono_trio.core.policy.outcome import ReadReason

Unseen: TypeAlias = Literal[
    "look-ups of files", "refused packets", "queries for names", "connections", "records"
]

# A command can make up any number of names. What lies beyond these bounds is counted without them.
MAX_HOSTS: Final = 1000
MAX_KEYS: Final = 4096
MAX_FILES: Final = 2000  # more than the view records (sandbox/denied_files.py)

# They count denials that have a record, or that the throttles left out beside one.
_SUPPRESSED_CODES: Final = frozenset({
    DenialCode.QUERIES_SUPPRESSED, DenialCode.PORTS_SUPPRESSED, DenialCode.DIRECT_SUPPRESSED,
    DenialCode.DATAGRAMS_SUPPRESSED,
})  # fmt: skip
# They count denied attempts that have no record.
_UNRECORDED_CODES: Final = frozenset({DenialCode.UNANSWERED_MORE, DenialCode.UNRECORDED})


class Decided(msgspec.Struct, frozen=True):
    """Numbers of attempts by outcome."""

    allowed: int
    denied: int
    failed: int


class _Open(msgspec.Struct):
    """Allowed requests of one host and port that no second decision has replaced."""

    allowed: int = 0
    connects: int = 0


class AttemptTally(msgspec.Struct):
    """The attempts of one session so far; `add` takes its records in order."""

    allowed: int = 0
    failed: int = 0
    observed: dict[str, None] = msgspec.field(default_factory=dict)
    """Hosts that only --observe let through, with their ports; the first MAX_HOSTS."""
    repeats: int = 0
    loopback: int = 0
    """Refused connections to loopback addresses, which are not counted."""
    denied_hosts: dict[str, DeniedHost] = msgspec.field(default_factory=dict)
    failed_hosts: dict[str, DeniedHost] = msgspec.field(default_factory=dict)
    unanswered: dict[tuple[str, int | None], None] = msgspec.field(default_factory=dict)
    """Requests without the token that no later one with it has followed; ("", None) for those that
    were only counted."""
    has_token: bool = False
    """True if a request came with the token."""
    created: dict[str, None] = msgspec.field(default_factory=dict)
    """Paths outside the grants that were to be created; the first MAX_FILES."""
    looked_up_files: dict[str, None] = msgspec.field(default_factory=dict)
    """Paths outside the grants that were looked up; the first MAX_FILES."""
    real_paths: dict[str, str] = msgspec.field(default_factory=dict)
    """The real paths of those that are symlinks or lie behind one."""
    replaced: Counter[tuple[str, int | None]] = msgspec.field(default_factory=Counter)
    """Allowed records, by host and port, whose attempt had another outcome after all."""
    unseen: Counter[Unseen] = msgspec.field(default_factory=Counter)
    """How many attempts were lost, by kind; of look-ups of files only those that may decide about
    the run."""
    beyond: int = 0
    """Denied attempts on hosts beyond the bound, or without a record."""
    _requests: int = 0
    _open: dict[tuple[str, int | None], _Open] = msgspec.field(default_factory=dict)
    _tried: dict[str, None] = msgspec.field(default_factory=dict)

    @property
    def denied(self) -> int:
        """The number of denied attempts, look-ups of names that were never tried among them."""
        return self._requests + sum(1 for _ in self.only_looked_up) + self.beyond

    @property
    def decided(self) -> Decided:
        """The numbers so far without look-ups: what one record changes in them is its part."""
        return Decided(self.allowed, self._requests + self.beyond, self.failed)

    @property
    def only_looked_up(self) -> Iterator[str]:
        """The names whose look-up was denied and that were never tried; each is one attempt."""
        for host in self.denied_hosts.values():
            if not host.ports and host.look_ups > 0:
                yield host.target

    @property
    def without_token(self) -> list[tuple[str, int | None]]:
        """The targets of `unanswered`. Those that were only counted are among them if no request
        came with the token: many clients send it only when asked, and their first requests count.
        """
        return [one for one in self.unanswered if one[0] or not self.has_token]

    @property
    def totals(self) -> AttemptTotals:
        """The three numbers, for the summary of a session."""
        return AttemptTotals(allowed=self.allowed, denied=self.denied, failed=self.failed)

    def allowed_targets(self) -> list[tuple[tuple[str, int | None], int]]:
        """The allowed attempts by host and port, the most frequent first; the first MAX_KEYS."""
        counts = [(key, found.allowed) for key, found in self._open.items() if found.allowed]
        return sorted(counts, key=lambda one: (-one[1], one[0][0], one[0][1] or 0))

    def add(self, payload: Payload) -> None:
        """Fold one record. Raises nothing."""
        self._add(payload, 1)

    def add_kinds(self, kinds: Sequence[Payload], order: Sequence[int]) -> None:
        """Fold records as `add` does; `order` has the place of each in `kinds`.

        Most records change the same numbers whatever is before them. All of such a kind are folded
        at the place of the first, so that the tables are filled in the same order.
        """
        left, one_by_one = Counter(order), self._one_by_one(kinds)
        for place in order if one_by_one else list(left):
            if place in one_by_one:
                self._add(kinds[place], 1)
            elif times := left[place]:
                self._add(kinds[place], times)
                left[place] = 0

    def _one_by_one(self, kinds: Sequence[Payload]) -> set[int]:
        """Return the places of the kinds whose records may not be folded out of their order."""
        # These tables may shrink, so whether the last free place is taken is a question of order.
        if max(len(self.denied_hosts), len(self.observed)) + len(kinds) > MAX_HOSTS:
            return set(range(len(kinds)))
        targets: set[str] = set()
        for payload in kinds:
            if isinstance(payload, Network) and _depends_on_order(payload.event):
                reason = read_reason(payload.event.reason or "")
                targets |= {payload.event.target, reason.other_host}
        return {
            place
            for place, payload in enumerate(kinds)
            if not isinstance(payload, Network) or payload.event.target in targets
        }

    def _add(self, payload: Payload, times: int) -> None:
        if isinstance(payload, Network):
            self._add_event(payload.event, times)
        elif isinstance(payload, CapabilityDecision):
            self._add_file(payload)

    def add_all(self, payloads: Iterable[Payload]) -> None:
        """Fold records."""
        for payload in payloads:
            self.add(payload)

    def _add_event(self, event: NetworkEvent, times: int) -> None:
        if is_about_log(event):
            self._add_about_many(event, times)
            return
        key = (event.target, event.port)
        if event.auth_outcome == "succeeded":
            self.has_token = True
            if self.unanswered:
                self.unanswered.pop(key, None)
        if event.decision in ("allow", "approve_granted"):
            self._add_allowed(key, event, times)
        elif event.denial_category == NO_TOKEN:
            if len(self.unanswered) < MAX_KEYS:
                self.unanswered[key] = None
        elif event.decision in ("deny", "approve_denied"):
            self._add_refused(key, event, times)

    def _add_about_many(self, event: NetworkEvent, times: int) -> None:
        read = read_reason(event.reason or "")
        count = read.count * times
        self._lose("records", lost_events(event) * times)
        if read.code in _SUPPRESSED_CODES:
            self.repeats += count
        elif read.code is DenialCode.QUERIES_LOST:
            self._lose("queries for names", count)
        elif read.code is DenialCode.PACKETS_LOST:
            self._lose("refused packets", count)
        elif read.code is DenialCode.CONNECTIONS_LOST:
            self._lose("connections", count)
        elif read.code in _UNRECORDED_CODES:
            self.beyond += count
        elif event.target == DIRECT_TARGET and event.decision == "deny":
            self.beyond += times  # attempts whose target is not known
            self.repeats += read.suppressed * times

    def _lose(self, kind: Unseen, count: int) -> None:
        if count:
            self.unseen[kind] += count

    def _add_allowed(self, key: tuple[str, int | None], event: NetworkEvent, times: int) -> None:
        found = self._open.get(key)
        if found is None:
            found = _Open()
            if len(self._open) < MAX_KEYS:
                self._open[key] = found
        if event.mode == "connect_intercept" and event.path is None:
            if event.auth_outcome == "succeeded":  # the CONNECT is counted
                self.replaced[key] += 1
                return
            found.connects += times
        elif event.method == "CONNECT":
            found.connects += times
        elif found.connects and _is_inside(event):
            found.connects -= 1  # the request inside that CONNECT
            self.replaced[key] += 1
            return
        found.allowed += times
        self.allowed += times
        if event.reason is not None and parse_note(event.reason).observed:
            self._add_observed(event)

    def _add_observed(self, event: NetworkEvent) -> None:
        if len(self.observed) < MAX_HOSTS:
            port = event.port or 0
            self.observed[entry(event.target, port)] = None

    def _add_refused(self, key: tuple[str, int | None], event: NetworkEvent, times: int) -> None:
        read = read_reason(event.reason or "")
        self.repeats += read.suppressed * times
        if event.method == LOOK_UP:
            self._add_look_up(event)
            return
        outcome = outcome_of(event)
        if outcome == "loopback":
            self.loopback += times
            return
        self._replace(key, event, read)
        if event.target not in self._tried:
            self._was_tried(event.target)
        if outcome == "failed":
            self.failed += times
            host = _host(self.failed_hosts, event.target)
        else:
            host = _host(self.denied_hosts, event.target)
            if host is None:
                self.beyond += times
            else:
                self._requests += times
        if host is not None:
            host.refuse(event.port, event.reason, listed=outcome == "listed", times=times)

    def _add_look_up(self, event: NetworkEvent) -> None:
        if event.target in self._tried:
            return
        host = _host(self.denied_hosts, event.target)
        if host is None:
            self.beyond += 1
        else:
            host.look_up(event.reason)

    def _was_tried(self, target: str) -> None:
        """A look-up of this name belongs to an attempt that is counted."""
        if len(self._tried) < MAX_KEYS:
            self._tried[target] = None
        host = self.denied_hosts.get(target)
        if host is not None and not host.ports:
            del self.denied_hosts[target]  # it was only looked up before

    def _replace(self, key: tuple[str, int | None], event: NetworkEvent, read: ReadReason) -> None:
        """Take the allowing decision back, if this is a second one about the same request."""
        is_second = event.denial_category in FAILED_CATEGORIES or read.is_second
        in_tunnel = event.mode == "connect_intercept" and not is_second
        in_tunnel |= event.auth_outcome == "succeeded" and read.ends_tunnel
        if not (in_tunnel or is_second):
            return
        if read.code is DenialCode.OTHER_SERVER_NAME:
            key = (read.other_host, event.port)
        found = self._open.get(key)
        if found is None or not found.allowed or (in_tunnel and not found.connects):
            return
        if event.method == "CONNECT" or in_tunnel:
            found.connects = max(0, found.connects - 1)
        found.allowed -= 1
        self.allowed -= 1
        if not found.allowed:
            self.observed.pop(entry(key[0], key[1] or 0), None)
        self.replaced[key] += 1

    def _add_file(self, payload: CapabilityDecision) -> None:
        self._lose("look-ups of files", unseen_count(payload))
        request = denied_request(payload)
        if request is None or request.path == MORE_FILES:
            return
        kept = self.looked_up_files if request.access == "Read" else self.created
        if len(kept) < MAX_FILES:
            kept[request.path] = None
            if (real := real_path(payload)) is not None:
                self.real_paths[request.path] = real


def is_denied_attempt(event: NetworkEvent) -> bool:
    """Return True for the record of an attempt that the policy refused: of nothing that failed, of
    no try of loopback, of no challenge."""
    if event.decision not in ("deny", "approve_denied") or is_about_log(event):
        return False
    if event.denial_category == NO_TOKEN:
        return False
    return is_counted(event)


def _depends_on_order(event: NetworkEvent) -> bool:
    """Return True if what a record changes depends on the others of its target, or theirs on it."""
    if is_about_log(event):
        return False
    if event.mode == "connect_intercept" or event.denial_category == NO_TOKEN:
        return True
    if event.decision in ("allow", "approve_granted"):
        return event.method != "CONNECT" and _is_inside(event)
    read = read_reason(event.reason or "")
    return (
        event.method == LOOK_UP
        or event.denial_category in FAILED_CATEGORIES
        or read.is_second
        or (event.auth_outcome == "succeeded" and read.ends_tunnel)
    )


def _is_inside(event: NetworkEvent) -> bool:
    """Return whether a request came in a CONNECT's tunnel, or under TLS that ended here."""
    if event.mode == "connect_intercept":
        return True
    return event.mode == "reverse" and event.auth_outcome == "succeeded"


def _host(hosts: dict[str, DeniedHost], target: str) -> DeniedHost | None:
    """The host's entry; None if there is no room for another host."""
    found = hosts.get(target)
    if found is None and len(hosts) < MAX_HOSTS:
        found = hosts[target] = DeniedHost(target)
    return found
