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
from nono_trio.cli.audit.learned_policy import (
    judging_flags,
    learned_files,
    learned_network,
    learned_variables,
)
from nono_trio.cli.text import MAX_DETAIL, clean, command_text, counted, shorten
from nono_trio.core.profile.values import quoted, quoted_path
from nono_trio.errors import LogUnreadable, NonoTrioError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nono_trio.audit.read.learn import DeniedTarget, Learned

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
        tables = {
            "meta": {"name": self._name()},
            "filesystem": learned_files(self.policy),
            "network": {"allow_domain": list(learned.entries), **self._network()},
            "environment": learned_variables(self.policy),
        }
        return {
            "session_id": self.session_id,
            "verdict": self.verdict,
            "profile": {name: table for name, table in tables.items() if table},
            "requests": learned.entries | learned.endpoints | learned.tools,
            "unreached": learned.unreached,
            "denied": learned.refused,
            "denied_endpoints": list(learned.denied_endpoints),
            "denied_tools": list(learned.denied_tools),
            "denied_files": [
                {"path": path, "access": access} for path, access in sorted(learned.files)
            ],
            "left_out": learned.left_out,
            "granted_paths": self.paths,
            "judging": judging_flags(self.policy),
        }

    def lines(self) -> Iterator[str]:
        """The profile as TOML."""
        learned = self.learned
        command = shorten(clean(command_text(self.command)), MAX_DETAIL)
        yield f"# Learned from session {self.session_id} ({self.verdict}): {command}"
        yield "# Review it: it allows what that session was allowed and reached."
        if flags := judging_flags(self.policy):
            yield f"# The session was judged with: {clean(flags)}"
        yield ""
        yield "[meta]"
        yield f"name = {quoted(self._name())}"
        yield ""
        files = learned_files(self.policy)
        if files:
            yield "# Granted in that session, with the access that each path had: use is not seen."
            yield "[filesystem]"
            yield from _table_lines(files)
            yield ""
        yield from _denied_file_lines(learned.files, has_table=bool(files))
        yield "[network]"
        yield "allow_domain = ["
        for rule, count in learned.entries.items():
            yield f"  {quoted(rule)},  # {counted(count, 'request')}"
        for rule, reason in learned.unreached.items():
            yield f"  # {quoted(rule)},  # never reached: {shorten(clean(reason), MAX_DETAIL)}"
        yield from _denied_lines(learned.refused)
        yield "]"
        yield from _rule_lines("allow_endpoint", learned.endpoints, learned.denied_endpoints)
        yield from _rule_lines("allow_mcp_tool", learned.tools, learned.denied_tools)
        network = self._network()
        for key in ("allow_endpoint", "allow_mcp_tool"):  # with their comments above
            network.pop(key, None)
        yield from _table_lines(network)
        unused = self._unused_ports()
        if unused:
            yield f"# open_port = {unused}  # never used"
        if learned.left_out:
            yield f"# left out: {counted(learned.left_out, 'decision')} about still other hosts"
        variables = learned_variables(self.policy)
        if variables:
            yield ""
            yield "[environment]"
            yield from _table_lines(variables)

    def _network(self) -> dict[str, Any]:
        """The keys of `network` beside `allow_domain`."""
        learned, found = self.learned, learned_network(self.policy)
        found["resolve"] = [*dict.fromkeys([*found.get("resolve", []), *learned.resolve])]
        found["allow_endpoint"] = list(learned.endpoints)
        found["allow_mcp_tool"] = list(learned.tools)
        found["open_port"] = sorted(learned.open_ports)
        found["listen_port"] = sorted({*found.get("listen_port", []), *learned.listen_ports})
        return {key: value for key, value in found.items() if value}

    def _unused_ports(self) -> list[int]:
        granted = set() if self.policy is None else {*self.policy.network.open_ports}
        return sorted(granted - self.learned.open_ports)

    def _name(self) -> str:
        return f"learned-{self.session_id}"


def _rule_lines(key: str, used: dict[str, int], refused: dict[str, int]) -> Iterator[str]:
    """The rules of the requests, or of the MCP messages, that were judged one by one."""
    denied = {rule: count for rule, count in refused.items() if rule not in used}
    if not (used or denied):
        return
    yield f"{key} = ["
    for rule, count in used.items():
        yield f"  {quoted(rule)},  # {counted(count, 'request')}"
    if denied:
        yield "  # Denied in that session: take the # away from what it may request."
    for rule, count in [*denied.items()][:MAX_DENIED]:
        yield f"  # {quoted(rule)},  # {count}x"
    yield "]"


def _table_lines(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, str):
            yield f"{key} = {quoted(value)}"
        elif all(isinstance(one, int) for one in value):
            yield f"{key} = {value}"
        else:
            yield f"{key} = [{', '.join(map(quoted_path, value))}]"


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
