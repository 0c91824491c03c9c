"""The lines of `run` and `proxy` during a session and after it: decisions, denials, hints."""

from __future__ import annotations

import sys
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING

from nono_trio.cli.pasted import pasteable
from nono_trio.cli.stderr import print_line
from nono_trio.cli.text import (
    FLOOD,
    MAX_DETAIL,
    clean,
    counted,
    denied_text,
    flood_text,
    numbers_text,
    shorten,
    target_text,
)
from nono_trio.core.log.notices import OWN_TARGETS
from nono_trio.errors import FAILED_EXIT_CODE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nono_trio.core.policy.allow_entry import DeniedHost
    from nono_trio.core.policy.attempts import AttemptTally
    from nono_trio.core.policy.judging import Judging, Strays

# More than that is a wall of text that hides the first one; `audit show` has them all.
MAX_TARGETS = 5
NO_PROGRAMS: Mapping[str, Sequence[str]] = MappingProxyType({})
MAX_NAMED = 3  # hosts in one line
MAX_FLAGS = 8  # a host may be wanted at many ports
# Chromium, for one, takes the proxy from these variables and leaves out its user and password. The
# settings named here work in both isolations; going without the proxy needs a network of one's own.
WITHOUT_TOKEN = (
    "the proxy was used without the password in HTTP_PROXY, for {}: a browser has to be given it"
    " (Playwright launch({{proxy: {{server, username, password}}}}), Puppeteer page.authenticate;"
    " what it asks of its maker on its own goes without all the same); in namespace isolation"
    " programs may also go without the proxy (unset HTTP_PROXY and HTTPS_PROXY; chromium"
    " --no-proxy-server)"
)


def say(text: str) -> None:
    """Print one line of our own on stderr."""
    print_line(f"nono-trio: {pasteable(text)}")


def say_hint(text: str) -> None:
    """Print the next step on stderr, below what stdout has."""
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    print_line(f"hint: {clean(pasteable(text))}")


def end_lines(
    attempts: AttemptTally,
    session_id: str | None,
    programs: Mapping[str, Sequence[str]] = NO_PROGRAMS,
) -> list[str]:
    """Return the lines about what a session was denied and what failed; [] if nothing was. Without
    `session_id` none names the log.

    A request without the token is not among the numbers: its sender has no right to learn what is
    allowed, and where others can reach the listener it may not be the caged command.
    """
    denied, failed = _by_weight(attempts.denied_hosts), _by_weight(attempts.failed_hosts)
    lines = []
    if attempts.denied or attempts.failed or attempts.observed:
        lines.append(numbers_text(attempts))
    if attempts.repeats >= FLOOD:
        lines.append(flood_text(attempts.repeats))
    lines += _host_lines("denied", denied)
    lines += _host_lines("failed", failed)
    if attempts.observed:
        lines += _observed_lines(attempts, session_id)
    if attempts.without_token:
        lines.append(_without_token(attempts))
    common = [*denied[:MAX_TARGETS], *failed[:MAX_TARGETS]]
    flags = [clean(flag) for host in common for flag in host.allow_flags]
    if flags:
        lines.append(f"to allow: {' '.join(flags[:MAX_FLAGS])}")
    if session_id is not None and (len(denied) > MAX_TARGETS or len(flags) > MAX_FLAGS):
        lines.append(f"all that was denied, as a profile: nono-trio audit learn {session_id}")
    if lines and programs:
        from nono_trio.cli.programs import programs_text  # late: for denials only

        lines.append(f"denied programs: {programs_text(programs)}")
    if lines and session_id is not None:
        lines.append(f"details: nono-trio audit show {session_id}")
    return lines


def verdict_line(judging: Judging, strays: Strays) -> str:
    """Return the line about exit code 3: the flag, and what the command tried."""
    told = []
    if strays.denied:
        hosts = sorted((host for host, _ in strays.hosts), key=lambda host: -host.requests)
        told.append(f"{strays.denied:,} denied{_named(hosts)}")
    for what, paths in (
        ("tripwire", strays.tripped),
        ("created outside the grants", strays.creates),
        ("looked up outside the grants", strays.looked_up),
    ):
        if paths:
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            told.append(f"{what}: {clean(paths[0])}{more}")
    told += [f"not all could be seen: {count:,} {kind} were lost" for kind, count in strays.unseen]
    return f"exit code {FAILED_EXIT_CODE}: {judging.flag}, and {', '.join(told)}"


def _named(hosts: list[DeniedHost]) -> str:
    """The first hosts of a line about them all."""
    if not hosts:
        return ""
    more = f" and {len(hosts) - MAX_NAMED:,} more" if len(hosts) > MAX_NAMED else ""
    return f": {', '.join(denied_text(host) for host in hosts[:MAX_NAMED])}{more}"


def _by_weight(hosts: dict[str, DeniedHost]) -> list[DeniedHost]:
    return sorted(hosts.values(), key=lambda host: -host.requests)


def _host_lines(outcome: str, hosts: list[DeniedHost]) -> Iterator[str]:
    """One line a host with the reason of its first refusal, and one for the rest of them."""
    for host in hosts[:MAX_TARGETS]:
        reason = shorten(clean(host.reason), MAX_DETAIL)
        yield f"{outcome} {denied_text(host)} ({host.requests}x): {reason}"
    if len(hosts) > MAX_TARGETS:
        yield f"{outcome} {counted(len(hosts) - MAX_TARGETS, 'host')} more"


def _observed_lines(attempts: AttemptTally, session_id: str | None) -> Iterator[str]:
    shown = [clean(one) for one in [*attempts.observed][:MAX_TARGETS]]
    more = len(attempts.observed) - len(shown)
    rest = f" and {more:,} more" if more else ""
    yield f"let through only by --observe: {', '.join(shown)}{rest}"
    if session_id is not None:
        command = f"nono-trio audit learn {session_id} > agent.toml"
        yield f"a profile that allows what was used: {command}"


def _without_token(attempts: AttemptTally) -> str:
    """The note that names the hosts; one record may stand for more requests than its own."""
    named = [
        target
        for target in attempts.without_token
        if target[0] and not target[0].startswith(OWN_TARGETS)
    ]
    shown = [target_text(*target) for target in named[:MAX_TARGETS]]
    return WITHOUT_TOKEN.format(f"{', '.join(shown)} and maybe others" if shown else "some hosts")
