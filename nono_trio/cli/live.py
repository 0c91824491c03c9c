"""What `run` and `proxy` say while a session lives and after it: decisions, denials, hints."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from nono_trio.audit.files import LOST_TARGET
from nono_trio.cli.text import clean, decision_line
from nono_trio.core.events import Network

if TYPE_CHECKING:
    from nono_trio.core.events import NetworkEvent, Payload

# More than that is a wall of text that hides the first one; `audit show` has them all.
MAX_TARGETS = 5
# A hostile child can name any number of hosts: the count beyond this is kept, the names are not.
MAX_COUNTED = 1000


def say(text: str) -> None:
    """Print one line of our own on stderr."""
    _print(f"nono-trio: {text}")


def _print(line: str) -> None:
    """Nobody reading stderr any more is no reason to end a session."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


class FollowPrinter:
    """Prints each decision as it is recorded."""

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Print a network decision; other payloads are not for watching."""
        if isinstance(payload, Network):
            _print(decision_line(payload.event))


class DenialCount:
    """Counts denials by target, bounded."""

    def __init__(self) -> None:
        self.total = 0
        self._allowed = 0
        self._targets: Counter[tuple[str, int | None]] = Counter()
        self._liftable: set[tuple[str, int | None]] = set()

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Count one decision."""
        if not isinstance(payload, Network) or payload.event.target == LOST_TARGET:
            return
        event = payload.event
        if event.decision == "allow":
            self._allowed += 1
        elif event.decision == "deny":
            self._count(event)

    def _count(self, event: NetworkEvent) -> None:
        self.total += 1
        target = (event.target, event.port)
        if target in self._targets or len(self._targets) < MAX_COUNTED:
            self._targets[target] += 1
            if event.reason is not None and "allowlist" in event.reason:
                self._liftable.add(target)

    def summary(self, session_id: str) -> list[str]:
        """Return up to three lines about a session with denials, none about one without."""
        if not self.total:
            return []
        common = self._targets.most_common(MAX_TARGETS)
        named = ", ".join(f"{_name(target)} ({count}x)" for target, count in common)
        more = len(self._targets) - len(common)
        lines = [
            f"{self.total} denied, {self._allowed} allowed: {named}"
            + (f" and {more} more" if more else "")
        ]
        flags = [
            f"--allow-domain {_name(target)}" for target, _ in common if target in self._liftable
        ]
        if flags:
            lines.append(f"to allow: {' '.join(flags)}")
        return [*lines, f"details: nono-trio audit show {session_id}"]


def _name(target: tuple[str, int | None]) -> str:
    host, port = target
    text = clean(host) or "(malformed request)"
    if ":" in text and port is not None:
        text = f"[{text}]"
    return text if port is None else f"{text}:{port}"
