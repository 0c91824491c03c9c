"""The output of `audit learn`: a profile for a person to review.

Rules of this file: a denied host is there as a comment, beside the allowed ones, so that
letting it in is a decision of its own; a log that was tampered with teaches nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from nono_trio.audit.read.learn import learn
from nono_trio.audit.store import read_summary
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.session import verify
from nono_trio.cli.text import MAX_DETAIL, clean, command_text, counted, shorten
from nono_trio.core.profile.values import quoted, quoted_path
from nono_trio.errors import LogUnreadable, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.read.learn import DeniedTarget, Learned
    from nono_trio.core.log.policy_json import GrantedPath

# Denials are there to be read one by one.
MAX_DENIED: Final = 50


class Lesson:
    """One session, verified and read."""

    def __init__(self, directory: Path) -> None:
        """Raises NonoTrioError for a log that was tampered with, LogUnreadable for none."""
        self.session_id = directory.name
        answer = verify(directory)
        self.verdict = answer.verdict
        if self.verdict == "tampered":
            raise NonoTrioError(
                f"expected a log that is whole, got a tampered one: session {self.session_id}",
                hint=f"nono-trio audit verify {self.session_id}",
            )
        if self.verdict == "unreadable" and not answer.event_count:  # else: it lacks its ledger
            raise LogUnreadable(
                f"expected a readable log, got an unreadable one: session {self.session_id}",
                hint=f"nono-trio audit verify {self.session_id}",
            )
        self.learned: Learned = learn(directory)
        # `verify` has compared it with its record, where there is one.
        self.policy = bound_facts.look(directory).policy
        summary = read_summary(directory)
        self.command = summary.command if summary is not None else []
        self.paths = summary.tracked_paths if summary is not None else []

    def fields(self) -> dict[str, Any]:
        """The lesson for --json; `profile` has the shape of a profile's file."""
        learned = self.learned
        others = {
            "resolve": learned.resolve,
            "open_port": sorted(learned.open_ports),
            "listen_port": sorted(learned.listen_ports),
        }
        network: dict[str, Any] = {"allow_domain": list(learned.entries)}
        network |= {name: values for name, values in others.items() if values}
        return {
            "session_id": self.session_id,
            "verdict": self.verdict,
            "profile": {
                "meta": {"name": self._name()},
                **({"filesystem": grants} if (grants := self._grants()) else {}),
                "network": network,
            },
            "requests": learned.entries,
            "denied": learned.refused,
            "denied_files": [
                {"path": path, "access": access} for path, access in sorted(learned.files)
            ],
            "left_out": learned.left_out,
            "granted_paths": self.paths,
        }

    def lines(self) -> Iterator[str]:
        """The profile as TOML."""
        learned = self.learned
        command = shorten(clean(command_text(self.command)), MAX_DETAIL)
        yield f"# Learned from session {self.session_id} ({self.verdict}): {command}"
        yield "# Review it: it allows exactly what that session was allowed."
        yield ""
        yield "[meta]"
        yield f"name = {quoted(self._name())}"
        yield ""
        yield from self._file_lines()
        yield from _denied_file_lines(learned.files, has_table=bool(self._grants()))
        yield "[network]"
        yield "allow_domain = ["
        for rule, count in learned.entries.items():
            yield f"  {quoted(rule)},  # {counted(count, 'request')}"
        yield from _denied_lines(learned.refused)
        yield "]"
        if learned.resolve:
            yield f"resolve = [{', '.join(map(quoted, learned.resolve))}]"
        if learned.open_ports:
            yield f"open_port = {sorted(learned.open_ports)}"
        if learned.listen_ports:
            yield f"listen_port = {sorted(learned.listen_ports)}"
        if learned.left_out:
            yield f"# left out: {counted(learned.left_out, 'decision')} about still other hosts"

    def _name(self) -> str:
        return f"learned-{self.session_id}"

    def _grants(self) -> dict[str, list[str]]:
        """The paths that the user granted, by the key of a profile, with the access they had."""
        grants: dict[str, list[str]] = {}
        for grant in self.policy.files.grants if self.policy and self.policy.files else ():
            if grant.asked_for:
                grants.setdefault(_key(grant), []).append(grant.path)
        return {key: [*dict.fromkeys(paths)] for key, paths in grants.items()}

    def _file_lines(self) -> Iterator[str]:
        grants = self._grants()
        if not grants:
            return
        yield "# Granted in that session, with the access that each path had."
        yield "[filesystem]"
        for key, paths in grants.items():
            yield f"{key} = [{', '.join(map(quoted_path, paths))}]"
        yield ""


def _key(grant: GrantedPath) -> str:
    """The key of a profile that grants a path as it was granted."""
    if grant.access == "socket":
        return "allow_unix_socket"
    key = "allow" if grant.access == "readwrite" else grant.access
    return f"{key}_file" if grant.is_file else key


def _denied_file_lines(files: set[tuple[str, str]], *, has_table: bool) -> Iterator[str]:
    """Lists to review; what was looked up is written only where the command was to create it."""
    if not files:
        return
    if has_table:
        yield "# Looked up in that session and not granted: add what it may use to the lists."
    else:
        yield "# Looked up in that session and not granted: take the # away from what it may use."
        yield "# [filesystem]"
    for access, key in (("Write", "write"), ("Read", "read")):
        paths = sorted(path for path, found in files if found == access)[:MAX_DENIED]
        for name, is_directory in ((key, True), (f"{key}_file", False)):
            named = [quoted_path(path) for path in paths if os.path.isdir(path) == is_directory]
            if named:
                yield f"# {name} = [{', '.join(named)}]"
    yield ""


def _denied_lines(refused: list[DeniedTarget]) -> Iterator[str]:
    if not refused:
        return
    yield "  # Denied in that session: take the # away from what it may reach."
    for denied in refused[:MAX_DENIED]:
        why = f"{denied.count}x: {shorten(clean(denied.reason), MAX_DETAIL)}"
        rule = quoted(shorten(denied.entry, MAX_DETAIL))
        if denied.can_be_allowed:
            yield f"  # {rule},  # {why}"
        else:
            yield f"  # (stays closed) {clean(rule)}  {why}"
    if len(refused) > MAX_DENIED:
        yield f"  # and {len(refused) - MAX_DENIED} more"
