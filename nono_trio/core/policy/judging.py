"""The verdict on a run: whether what it tried makes it fail (exit code 3).

Rules of this file: the verdict follows from the attempts alone (attempts.py), so that it can be
computed again from the log. A denied host that is expected is no reason. A hit of a deny entry is
one only under `all`: who denies a host by name knows that it is asked for. What was lost may have
been a reason, so a run that could not be seen whole fails.

The record of a look-up names the first name that the cage does not have. So that it names a
tripwire itself, the cage shows the directory of a tripwire, empty (`directories`). So a pattern may
have its `*` in its last part only: of a pattern in a directory the record would name less.
"""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.net.host import BadHost, parse_host
from nono_trio.core.policy.allow_entry import LOOK_UP
from nono_trio.core.policy.outcome import outcome_of
from nono_trio.core.policy.rule import ANY_PORT, DENY_FLAG, WEB_PORTS, parse_deny
from nono_trio.errors import FAILED_EXIT_CODE, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.core.log.events import NetworkEvent
    from nono_trio.core.policy.allow_entry import DeniedHost
    from nono_trio.core.policy.attempts import AttemptTally, Unseen
    from nono_trio.core.policy.rule import Rule

FailOn: TypeAlias = Literal["policy", "all"]

EXPECT_FLAG: Final = "--expect-deny"
PATH_FLAG: Final = "--fail-on-path"
_STAR: Final = "*"
_WEB: Final = frozenset((ANY_PORT, *WEB_PORTS))


class Strays(msgspec.Struct, frozen=True):
    """The attempts of a run against its policy, except the expected ones.

    `hosts` are the denied hosts with the number of attempts; `others` counts attempts on hosts that
    are not known any more. `creates` are paths outside the grants that were to be created,
    `looked_up` those whose look-up counts, `tripped` those of a tripwire. `unseen` counts lost
    attempts that may have been one of them.
    """

    hosts: tuple[tuple[DeniedHost, int], ...] = ()
    others: int = 0
    creates: tuple[str, ...] = ()
    looked_up: tuple[str, ...] = ()
    tripped: tuple[str, ...] = ()
    unseen: tuple[tuple[Unseen, int], ...] = ()

    @property
    def denied(self) -> int:
        """The number of denied attempts among them."""
        return sum(count for _, count in self.hosts) + self.others

    def __bool__(self) -> bool:
        reasons = self.creates, self.looked_up, self.tripped, self.unseen
        return bool(self.denied or any(reasons))


class Judging(msgspec.Struct, frozen=True):
    """The attempts that make a run fail. `expected` are host rules, `paths` absolute paths, whose
    last part may have `*`.

    Without `fail_on` only a tripwire in `paths` makes it fail.
    """

    fail_on: FailOn | None = None
    expected: tuple[Rule, ...] = ()
    paths: tuple[str, ...] = ()
    deny_list: tuple[Rule, ...] = ()
    """The deny entries of the policy: the record of a look-up does not say that one applies."""

    @property
    def flag(self) -> str:
        """The flag that the message about exit code 3 names."""
        if self.fail_on is None:
            return PATH_FLAG
        return "--fail-on all" if self.fail_on == "all" else "--fail-on-deny"

    @property
    def needs_files(self) -> bool:
        """True if the verdict depends on look-ups of files."""
        return bool(self.paths) or self.fail_on == "all"

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories in which the tripwires lie; "" for the root."""
        return tuple(dict.fromkeys(map(_directory, self.paths)))

    def strays(self, attempts: AttemptTally) -> Strays:
        """Return what makes the run fail."""
        tripped = tuple(self._tripped(attempts))
        unseen = tuple((kind, n) for kind, n in attempts.unseen.items() if self._needs(kind))
        if self.fail_on is None:
            return Strays(tripped=tripped, unseen=unseen)
        hosts = ((host, self._counted(host)) for host in attempts.denied_hosts.values())
        return Strays(
            hosts=tuple((host, count) for host, count in hosts if count),
            others=attempts.beyond,
            creates=tuple(attempts.created),
            looked_up=tuple(attempts.looked_up_files) if self.fail_on == "all" else (),
            tripped=tripped,
            unseen=unseen,
        )

    def is_reason(self, event: NetworkEvent) -> bool:
        """Return True if the record of a denial may make a run with `fail_on` fail."""
        outcome = outcome_of(event)
        if outcome != "denied" and (outcome != "listed" or self.fail_on != "all"):
            return False
        return not self.is_expected(event.target, None if event.method == LOOK_UP else event.port)

    def is_expected(self, target: str, port: int | None) -> bool:
        """Return True if a denial of the host is no reason; `port` None: a look-up of its name."""
        is_listed = self.fail_on != "all" and _names(self._denies(port), target, port)
        return is_listed or _names(self.expected, target, port)

    def _denies(self, port: int | None) -> tuple[Rule, ...]:
        """The deny entries that explain the denial of a request: a look-up is denied for what a
        program asks a name for, so an entry for some other port does not explain it."""
        if port is not None:
            return self.deny_list
        return tuple(rule for rule in self.deny_list if not _WEB.isdisjoint(rule.ports))

    def is_tripwire(self, path: str) -> bool:
        """Return True if a look-up of `path` makes the run fail, provided that it exists."""
        return any(_is_hit(path, wanted) for wanted in self.paths)

    def leads_to_tripwire(self, real: str) -> bool:
        """Return True if a symlink to `real` leads to a tripwire, below it, or to its directory."""
        return any(real == _directory(wanted) or _is_in(real, wanted) for wanted in self.paths)

    def is_named(self, path: str) -> bool:
        """Return True if `path` itself is a tripwire: a look-up of it counts, existing or not."""
        return any(_is_same(path, wanted) for wanted in self.paths)

    def weighs(self, path: str | None, *, creates: bool, real: str | None = None) -> bool:
        """Return True if a look-up may make the run fail; `path` None: of any path. `real` is the
        path without symlinks, if it is known."""
        if self.fail_on == "all" or (self.fail_on == "policy" and creates):
            return True
        return bool(self.paths) and (path is None or self.is_trip(path, real))

    def is_trip(self, path: str, real: str | None) -> bool:
        """Return True if a look-up of `path`, which leads to `real`, is one of a tripwire."""
        return self.is_tripwire(path) or (real is not None and self.leads_to_tripwire(real))

    def exit_code(self, child: int, attempts: AttemptTally) -> int:
        """Return the run's exit code: the command's own, unless it succeeded and strayed."""
        return FAILED_EXIT_CODE if child == 0 and self.strays(attempts) else child

    def _counted(self, host: DeniedHost) -> int:
        """The attempts on a host that are a reason to fail."""
        if not host.ports:
            return 0 if self.is_expected(host.target, None) else 1
        return sum(
            count - (0 if self.fail_on == "all" else host.listed[port])
            for port, count in host.ports.items()
            if not _names(self.expected, host.target, port)
        )

    def _needs(self, kind: Unseen) -> bool:
        """Return True if the verdict depends on what was lost. Look-ups are only counted as lost
        where it does."""
        if kind == "look-ups of files":
            return True
        return self.fail_on is not None or (kind == "records" and bool(self.paths))

    def _tripped(self, attempts: AttemptTally) -> Iterator[str]:
        if not self.paths:
            return
        for path in dict.fromkeys((*attempts.looked_up_files, *attempts.created)):
            if self.is_trip(path, attempts.real_paths.get(path)):
                yield path


def parse_expected(entries: Sequence[str]) -> tuple[Rule, ...]:
    """Return the rules of `--expect-deny`; raises UsageError for an invalid one."""
    rules = []
    for entry in entries:
        try:
            rules.append(parse_deny(entry))
        except UsageError as error:
            message = error.message.replace(DENY_FLAG, EXPECT_FLAG)
            hint = error.hint and error.hint.replace(DENY_FLAG, EXPECT_FLAG)
            raise UsageError(message, hint=hint) from None
    return tuple(rules)


def _names(rules: Sequence[Rule], target: str, port: int | None) -> bool:
    """Return True if a rule names the host; `port` None stands for a look-up, which has no port."""
    if not rules:
        return False
    try:
        host = parse_host(target)
    except BadHost:
        return False
    return any(_covers(rule, host.name, port) for rule in rules)


def _covers(rule: Rule, name: str, port: int | None) -> bool:
    suffix = f".{rule.host.name}"
    is_host = name.endswith(suffix) if rule.wildcard else name == rule.host.name
    return is_host and (port is None or port in rule.ports or ANY_PORT in rule.ports)


def check_tripwire(path: str) -> None:
    """Raise UsageError for an absolute path that can't be a tripwire."""
    if not path.strip("/"):
        raise UsageError(
            f"{PATH_FLAG}: expected a path below /, got /",
            hint="--fail-on all counts every look-up of a file that is not granted",
        )
    if _STAR in _directory(path):
        raise UsageError(
            f"{PATH_FLAG}: expected * in the last part of the path only, got {path}",
            hint=f"give {PATH_FLAG} once for each directory that is meant",
        )


def _directory(wanted: str) -> str:
    """Return the directory of a tripwire; "" for the root."""
    return wanted.rpartition("/")[0]


def _is_same(path: str, wanted: str) -> bool:
    if _STAR not in wanted:
        return path == wanted
    directory, _, name = path.rpartition("/")
    above, _, pattern = wanted.rpartition("/")
    return directory == above and fnmatch.fnmatchcase(name, _only_stars(pattern))


def _only_stars(pattern: str) -> str:
    """Return the pattern for fnmatch in which nothing but * is special."""
    return pattern.replace("[", "[[]").replace("?", "[?]")


def _is_in(path: str, wanted: str) -> bool:
    """Return True if `path` is a tripwire, or lies below one."""
    parts = wanted.count("/") + 1
    return _is_same("/".join(path.split("/", parts)[:parts]), wanted)


def _is_hit(path: str, wanted: str) -> bool:
    """Return True if a record about `path` is one about a tripwire.

    A directory above the wanted path stands for it: the cage does not have it, or it was listed.
    """
    above = _directory(wanted)
    return above == path or above.startswith(f"{path}/") or _is_in(path, wanted)
