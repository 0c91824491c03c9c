"""The policy's answer about a host and port, with what the record of an allowed request notes."""

from __future__ import annotations

import msgspec

from nono_trio.core.policy.request_note import Note, format_note
from nono_trio.core.policy.rule import Inspection


class Verdict(msgspec.Struct, frozen=True):
    """The policy's answer. `rule` is the entry that decided, as written; None for a built-in rule.

    `reason` is set for a denial: one short sentence without a full stop. `hint` names the flag that
    would change it; None if no flag would. `inspection` says what an allowed connection must show.
    """

    allowed: bool
    rule: str | None = None
    reason: str | None = None
    hint: str | None = None
    inspection: Inspection = Inspection.NAME
    scheme: str = ""
    """The scheme of an entry that allows more than a plain one; the record names such an entry."""
    tls_only: bool = False
    """True if every entry that allows the host says TLS, so that plain HTTP is refused."""
    looked_up: tuple[str, ...] = ()
    """The full names that the look-up of an allowed host without a dot asks for, in order."""
    observed: bool = False
    """True if no entry allows it: the session observes, so it is let through and recorded."""
    intercepted: bool = False
    """True if the requests of an allowed connection must be seen; it is never a tunnel then. Of a
    denied one: endpoint rules name the host, so a request has a verdict of its own."""

    @property
    def is_noted(self) -> bool:
        """True if the record of an allowed request has a note."""
        return bool(self.scheme or self.looked_up or self.observed)

    @property
    def entry_note(self) -> str | None:
        """The note about the entry for the record of an allowed request; None for a plain entry."""
        return format_note(Note(self._noted_entry, observed=self.observed))

    @property
    def note(self) -> str | None:
        """The note for the record of an allowed request.

        None for a plain entry and a name that is looked up unchanged.
        """
        if not self.is_noted:
            return None
        return format_note(Note(self._noted_entry, self.looked_up, observed=self.observed))

    @property
    def _noted_entry(self) -> str:
        return self.rule if self.rule and self.scheme else ""
