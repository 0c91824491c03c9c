"""The texts of records without stand-ins: a path, a reason or an argument may have one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from nono_trio.core.log.redaction import REDACTED

if TYPE_CHECKING:
    from nono_trio.proxy.access.decision import Decision
    from nono_trio.proxy.credentials.origin import NamedSearch

_PARTS: Final = re.compile(r"([/ ?&]+)")


class ShownTexts:
    """Takes the stand-ins that `search` finds out of decisions; None finds nothing."""

    def __init__(self, search: NamedSearch | None) -> None:
        self._search = search

    def without_stand_ins(self, decision: Decision) -> Decision:
        """Return the decision with texts that show no stand-in."""
        text = f"{decision.target}\n{decision.path or ''}".encode("utf-8", "replace")
        if self._search is None or self._search.find(text) is None:
            return decision
        refusal = decision.refusal
        if refusal is not None:
            decision = decision.refused(replace(refusal, reason=self.text(refusal.reason)))
        path = None if decision.path is None else self.text(decision.path)
        return replace(decision, target=self.text(decision.target), path=path)

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
