"""A sealed session whose every text is hostile to a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sealed_session as made

from nono_trio.core.log import events
from nono_trio.core.log.file_events import denied_file

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [
    "</script><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "\"'><svg onload=document.title='ran'>",
    "evil\u202egnp.exe",
    "\x1b]0;ran\x07\u2028\u0000",
    "emoji-\U0001f600.example",
    "m" * 1_000_000,
]


def looked_up(path: str, access="Read"):
    return denied_file(
        path, access, process=17, number=1, session_id="0123456789abcdef",
        unix_ns=(made.NOON_UNIX_MS + 4) * 10**6,
    )  # fmt: skip


def hostile_session(root: Path) -> Path:
    """It is longer than our writer would make it, which cuts long texts."""
    payloads = [events.SessionStarted(started=made.STARTED, command=["agent", *HOSTILE])]
    payloads += [made.sandbox_runtime()]
    for number, text in enumerate(HOSTILE):
        payloads += [
            made.network(number, "deny", text, reason=f"{text} is not on the allowlist"),
            made.network(number, "allow", text, method="GET", path=text, mode="reverse"),
            looked_up(text),
        ]
    flows = [made.flow(3, target=text) for text in HOSTILE]
    return made.build(root, payloads=(*payloads, made.ended()), flows=flows, name=HOSTILE[0])
