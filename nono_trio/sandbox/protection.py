"""What stays closed even inside a grant: secrets, shell start-up files, our own state.

A grant is refused, never narrowed silently, unless the closed part can be covered by a mount. The
state directory can't be opened by any flag but by moving it: a child that can write its own log
makes every promise about it void.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.audit.store import usual_state_root
from nono_trio.errors import UsageError
from nono_trio.sandbox.places import home_directory, is_below
from nono_trio.sandbox.program import program_paths

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nono_trio.sandbox.plan import Grant

_LIFT = "--bypass-protection"


@dataclass(frozen=True)
class Protection:
    """The closed paths of one run; `lifted` are those that the user opened by name.

    `states`: where this run's log goes; where logs are kept by default, if that is elsewhere, which
    is then one of `denied` too.
    """

    denied: tuple[str, ...]
    lifted: tuple[str, ...]
    states: tuple[str, ...]
    home: str

    @classmethod
    def build(
        cls, denied: Sequence[str], bypass: Sequence[str], directory: str, state_root: Path
    ) -> Protection:
        """Resolve the lists; raises UsageError for a bypass that opens nothing."""
        home = os.path.realpath(home_directory())
        lifted = tuple(
            os.path.realpath(os.path.join(directory, os.path.expanduser(path))) for path in bypass
        )
        states = dict.fromkeys(map(os.path.realpath, (state_root, usual_state_root(os.environ))))
        denied = [*denied, *list(states)[1:]]
        real = {path: os.path.realpath(path) for path in denied}
        for given, path in zip(bypass, lifted, strict=True):
            if path != home and path not in (*real.values(), *program_paths()):
                raise UsageError(
                    f"{_LIFT} {given}: nothing protects that path",
                    hint="see `nono-trio why --path` for what closes a path",
                )
        kept = tuple(path for path in denied if real[path] not in lifted)
        return cls(kept, lifted, tuple(states), home)

    def meets_state(self, real: str) -> bool:
        """Whether a path (without symlinks) is around audit state, it, or inside of it."""
        return any(_meet(real, state) for state in self.states)

    def inside(self, grant: Grant, can_cover: bool) -> list[str]:
        """Return the closed paths (without symlinks) inside `grant` that exist, to be covered.

        Raises UsageError when the grant must not be given at all.
        """
        real = grant.real
        if _meet(real, self.states[0]):
            raise UsageError(
                f"{grant.source} {grant.path} covers the audit state directory {self.states[0]}",
                hint="grant a smaller directory, or move the state with --audit-dir",
            )
        self._refuse_writable_home(grant, real)
        covered = []
        for path in self.denied:
            closed = os.path.realpath(path)
            if real == closed or is_below(real, closed):
                raise UsageError(
                    f"{grant.source} {grant.path} is protected (secrets or start-up files)",
                    hint=f"lift it with {_LIFT} {path} if the command must have it",
                )
            if grant.is_file or not is_below(closed, real):
                continue
            if not can_cover:
                raise UsageError(
                    f"{grant.source} {grant.path} would open {path}, which is protected, and"
                    " this isolation can't close a path inside an open directory",
                    hint=f"grant what is needed below it, or lift it with {_LIFT} {path}",
                )
            if os.path.exists(closed):
                covered.append(closed)
        return covered

    def _refuse_writable_home(self, grant: Grant, real: str) -> None:
        """A start-up file that does not exist yet can't be covered, and would run later."""
        holds_home = real == self.home or is_below(self.home, real)
        if holds_home and grant.access != "read" and self.home not in self.lifted:
            raise UsageError(
                f"{grant.source} {grant.path} would let the command create start-up files in your"
                f" home {self.home}",
                hint=f"grant directories below it, or lift this with {_LIFT} {self.home}",
            )


def _meet(path: str, other: str) -> bool:
    """Whether two paths without symlinks are the same, or one is inside of the other."""
    return path == other or is_below(path, other) or is_below(other, path)
