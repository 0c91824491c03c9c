"""The texts of records without stand-ins: a path, a reason or an argument may have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.late import late_pattern
from nono_trio.core.log.redaction import REDACTED

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.credentials.origin import NamedSearch

_PARTS: Final = late_pattern(r"([/ ?&]+)")


class ShownTexts:
    """Takes the stand-ins that `search` finds out of decisions; None finds nothing."""

    def __init__(self, search: NamedSearch | None) -> None:
        self._search = search

    def without_stand_ins(self, decision: Decision) -> Decision:
        """Return the decision with texts that show no stand-in."""
        refusal = decision.refusal
        if not self._has_any(decision.target, decision.path, refusal.reason if refusal else None):
            return decision
        if refusal is not None:
            decision = decision.refused(replace(refusal, reason=self.text(refusal.reason)))
        path = None if decision.path is None else self.text(decision.path)
        return replace(decision, target=self.text(decision.target), path=path)

    def event(self, event: NetworkEvent) -> NetworkEvent:
        """Return the record with texts that show no stand-in."""
        if not self._has_any(event.target, event.path, event.reason):
            return event
        path = None if event.path is None else self.text(event.path)
        reason = None if event.reason is None else self.text(event.reason)
        return replace(event, target=self.text(event.target), path=path, reason=reason)

    def _has_any(self, *texts: str | None) -> bool:
        """Return True if one of the texts has a stand-in."""
        text = "\n".join(text for text in texts if text)
        return (
            self._search is not None
            and self._search.find(text.encode("utf-8", "replace")) is not None
        )

    def text(self, text: str) -> str:
        """Return a text without the parts that have a stand-in."""
        search = self._search
        if search is None or search.find(text.encode("utf-8", "replace")) is None:
            return text
        parts = [
            REDACTED if search.find(part.encode("utf-8", "replace")) is not None else part
            for part in _PARTS.split(text)
        ]
        shown = "".join(parts)
        return shown if search.find(shown.encode("utf-8", "replace")) is None else REDACTED
