"""The programs behind the decisions of a run: beside each one, and at the end those denied.

Rules of this file: memory is bounded; a program's own text goes through `clean`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.cli.text import clean, shorten
from nono_trio.core.log.events import Network
from nono_trio.core.log.processes import program_text
from nono_trio.core.policy.attempts import is_denied_attempt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.core.log.events import Payload
    from nono_trio.core.log.processes import Found, Program

MAX_NAME: Final = 60  # characters of a program's name
MAX_NAMED: Final = 5  # programs, and hosts of each
MAX_KEPT: Final = 1000  # a hostile child can start any number of programs


class NextPrograms:
    """Keeps the programs of a record until the record itself is observed."""

    def __init__(self) -> None:
        self._sequence = -1
        self._found: Found | None = None

    def observe_programs(self, sequence: int, found: Found) -> None:
        """Keep the programs of the record that is observed next."""
        self._sequence, self._found = sequence, found

    def programs(self, sequence: int) -> Sequence[Program]:
        """Return the programs of a record, each once; none if they are not known."""
        if self._found is None or self._sequence != sequence:
            return ()
        return self._found.programs


class DeniedPrograms(NextPrograms):
    """Collects the programs that were denied something, with the hosts."""

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[Program, dict[str, None]] = {}

    def observe(self, sequence: int, payload: Payload) -> None:
        """Collect one decision."""
        if not isinstance(payload, Network) or not is_denied_attempt(payload.event):
            return
        for program in self.programs(sequence):
            hosts = self._hosts.get(program)
            if hosts is None:
                if len(self._hosts) >= MAX_KEPT:
                    continue
                hosts = self._hosts[program] = {}
            if len(hosts) < MAX_NAMED:
                hosts[payload.event.target] = None

    def named(self) -> dict[str, list[str]]:
        """Return the programs by name, each with its first hosts."""
        by_name: dict[str, dict[str, None]] = {}
        for program, hosts in self._hosts.items():
            by_name.setdefault(shown_program(program), {}).update(hosts)
        return {name: [*hosts][:MAX_NAMED] for name, hosts in by_name.items()}


def programs_text(programs: Mapping[str, Sequence[str]]) -> str:
    """Return denied programs as `name (host, host), name (host)`, bounded."""
    shown = [
        f"{name} ({', '.join(clean(host) for host in hosts)})"
        for name, hosts in [*programs.items()][:MAX_NAMED]
    ]
    more = f" and {len(programs) - MAX_NAMED} more" if len(programs) > MAX_NAMED else ""
    return f"{', '.join(shown)}{more}"


def shown_file(program: Program) -> str:
    """Return the name of a program's file. Its arguments are often not known yet at a decision."""
    return shorten(clean(program_text(program.exe, None)), MAX_NAME)


def shown_program(program: Program) -> str:
    """Return a program's name for a line."""
    return shorten(clean(program_text(program.exe, program.argv)), MAX_NAME)
