"""The lines of `--follow`: each decision of a session as it is recorded.

Rules of this file: one line a record; what a program chose goes through `clean`. Look-ups of files
have a bound of their own, because a program that searches a disk would hide the network decisions.
Those that the end of a run leaves out (system directories, PATH) are left out here too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.cli.programs import NextPrograms, shown_file
from nono_trio.cli.stderr import print_line
from nono_trio.cli.text import MAX_DETAIL, clean, clock_time, decision_line, shorten
from nono_trio.core.log.events import Network
from nono_trio.core.log.file_events import MORE_FILES, access_word, denied_entry
from nono_trio.core.log.notices import is_binding
from nono_trio.session.file_notes import is_of_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.file_events import DeniedEntry

MAX_FILES: Final = 100  # a screen or two; `audit show` has up to 1,000


class FollowPrinter(NextPrograms):
    """Prints each decision as it is recorded; `search`: the directories of the command's PATH."""

    def __init__(self, search: Sequence[str] = ()) -> None:
        super().__init__()
        self._search = search
        self._files = 0

    def observe(self, sequence: int, payload: Payload) -> None:
        """Print a network decision, a file that is not granted, or what is missing in the log;
        other payloads are not for watching."""
        if isinstance(payload, Network):
            if not is_binding(payload.event):
                print_line(f"{decision_line(payload.event)}{self._by(sequence)}")
        elif (entry := denied_entry(payload)) is not None:
            self._print_file(entry)

    def _by(self, sequence: int) -> str:
        names = dict.fromkeys(shown_file(program) for program in self.programs(sequence))
        return f"  by {', '.join(names)}" if names else ""

    def _print_file(self, entry: DeniedEntry) -> None:
        time = clock_time(entry.unix_ms)
        if entry.path == MORE_FILES:
            print_line(f"{time} log    {shorten(clean(entry.reason), MAX_DETAIL)}")
            return
        if self._files > MAX_FILES or not is_of_user(entry.path, entry.access, self._search):
            return
        self._files += 1
        if self._files > MAX_FILES:
            text = "more files that are not granted have no line here; `audit show` has them"
        else:
            path = shorten(clean(entry.path), MAX_DETAIL)
            text = f"{path} ({access_word(entry.access)})  {clean(entry.reason)}"
        print_line(f"{time} deny  file     {text}")
