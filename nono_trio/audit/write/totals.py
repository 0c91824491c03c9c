"""The counts of a live session's records, for its summary, and the first of its network events.

Most records of a session say the same as one before, and nobody asks for a count before the end. So
records are kept until there are some, and those of one kind are counted together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import count, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import Tally
from nono_trio.core.log.session_json import MAX_NETWORK_EVENTS
from nono_trio.core.policy.attempts import AttemptTally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.events import NetworkEvent, Payload

# Counted at once. If no two of them are of one kind and all are denied, it takes a millisecond.
MOST_KEPT: Final = 64

# All that `Tally` and `AttemptTally` read of an event: equal ones change the same numbers.
_kind_of = attrgetter(
    "mode",
    "decision",
    "auth_outcome",
    "denial_category",
    "target",
    "port",
    "method",
    "path",
    "reason",
)
_event_of = attrgetter("event")


class Totals:
    """The writer's counts. What is counted late is up to date whenever it is asked for."""

    def __init__(self) -> None:
        self.lost = 0
        self.lost_flows = 0
        self.peak_queue = 0
        self.lost_reasons: dict[str, int] = {}
        self.exit_code: int | None = None
        """The exit code of the command, once it has ended."""
        self._kept: list[Payload] = []
        self._tally = Tally()
        self._attempts = AttemptTally()
        self._network_events: list[NetworkEvent] = []

    def add(self, payloads: Sequence[Payload]) -> None:
        """Count records, in the order of the log."""
        self._kept += payloads
        if len(self._kept) >= MOST_KEPT:
            self._settle()

    @property
    def allowed(self) -> int:
        """The number of allowed requests."""
        self._settle()
        return self._tally.allowed

    @property
    def denied(self) -> int:
        """The number of denied requests."""
        self._settle()
        return self._tally.denied

    @property
    def attempts(self) -> AttemptTally:
        """The attempts of the session; what is added to it is counted as no request."""
        self._settle()
        return self._attempts

    @property
    def network_events(self) -> list[NetworkEvent]:
        """The first network events of the log, for session.json; the log has all of them."""
        self._settle()
        return self._network_events

    def keep_events(self, payloads: Sequence[Payload]) -> None:
        """Keep the network events among records, which are not counted, if they are some of the
        first."""
        self._settle()
        self._keep([payload.event for payload in payloads if isinstance(payload, Network)])

    def _keep(self, events: Sequence[NetworkEvent]) -> None:
        left = MAX_NETWORK_EVENTS - len(self._network_events)
        if left > 0:
            self._network_events += events[:left]

    def _settle(self) -> None:
        """Count the records that are kept."""
        kept, self._kept = self._kept, []
        for kind, payloads in groupby(kept, type):
            if kind is Network:
                self._count([*payloads])
            else:
                self._attempts.add_all(payloads)

    def _count(self, records: Sequence[Payload]) -> None:
        """Count network records, those of one kind together."""
        numbers = defaultdict[object, int](count().__next__)  # of the kinds, from 0
        events = [*map(_event_of, records)]
        self._keep(events)
        order = [*map(numbers.__getitem__, map(_kind_of, events))]
        kinds = [*dict(zip(order, records, strict=True)).values()]
        for kind, times in Counter(order).items():
            self._tally.add(kinds[kind], times)
        self._attempts.add_kinds(kinds, order)
