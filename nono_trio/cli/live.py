"""The lines of `run` and `proxy` during a session and after it: decisions, denials, hints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.cli.stderr import print_line
from nono_trio.cli.text import clean, decision_line, denied_text, target_text
from nono_trio.core.log.events import Network
from nono_trio.core.log.notices import LOST_TARGET, OWN_TARGETS, is_about_log, is_binding
from nono_trio.core.policy.allow_entry import LOOK_UP, DeniedHost, allow_flag

if TYPE_CHECKING:
    from nono_trio.core.log.events import NetworkEvent, Payload

# More than that is a wall of text that hides the first one; `audit show` has them all.
MAX_TARGETS = 5
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
# Failures that no entry of ours lifts: of the network, or of the proxy behind this one.
OUT_OF_REACH = ("external_proxy_rejected", "upstream_connect_failed")
MAX_REASONS = 3
# A hostile child can name any number of hosts: the count beyond this is kept, the names are not.
MAX_COUNTED = 1000


def say(text: str) -> None:
    """Print one line of our own on stderr."""
    print_line(f"nono-trio: {text}")


class FollowPrinter:
    """Prints each decision as it is recorded."""

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Print a network decision, or what is missing; other payloads are not for watching."""
        if isinstance(payload, Network) and not is_binding(payload.event):
            print_line(decision_line(payload.event))


class DenialCount:
    """Counts denials by host, bounded.

    A request without the token does not count: its sender has no right to learn what is allowed,
    and where others can reach the listener it may not be the caged command.
    """

    def __init__(self) -> None:
        self.total = 0
        self._allowed = 0
        self._told_elsewhere = 0
        self._kept = 0
        # Requests that no later one with the token has followed: a client may wait to be asked.
        self._without_token: dict[tuple[str, int | None], None] = {}
        self._hosts: dict[str, DeniedHost] = {}
        self._out_of_reach: dict[str, None] = {}

    def observe(self, _sequence: int, payload: Payload) -> None:
        """Count one decision."""
        if not isinstance(payload, Network):
            return
        if is_binding(payload.event) or payload.event.target == LOST_TARGET:
            return
        event = payload.event
        if event.auth_outcome == "succeeded":
            self._without_token.pop((event.target, event.port), None)
        if event.decision == "allow":
            self._allowed += 1
        elif event.denial_category == "authentication_failed":
            if len(self._without_token) < MAX_COUNTED:
                self._without_token[event.target, event.port] = None
        elif event.decision == "deny":
            self._count(event)

    def _count(self, event: NetworkEvent) -> None:
        self.total += 1
        if is_about_log(event):  # many refusals at once, or one of an unknown host
            self._told_elsewhere += 1
            return
        if event.denial_category in OUT_OF_REACH and len(self._out_of_reach) < MAX_REASONS:
            self._out_of_reach[clean(event.reason or "")] = None
        host = self._hosts.get(event.target)
        is_known = host is not None and (event.method == LOOK_UP or event.port in host.ports)
        if not is_known and self._kept >= MAX_COUNTED:
            return
        self._kept += not is_known
        host = self._hosts.setdefault(event.target, DeniedHost(event.target))
        if event.method == LOOK_UP:
            host.look_ups += 1
        else:
            host.ports[event.port] += 1
            flag = allow_flag(event.target, event.port, event.reason)
            host.allow_flags |= dict.fromkeys([flag] if flag else [])

    @property
    def named(self) -> str:
        """How much was denied, and the host that was denied most."""
        most = max(self._hosts.values(), key=lambda host: host.requests, default=None)
        first = "" if most is None else f": {denied_text(most)}"
        return f"{self._shown or self.total} denied{first}"

    def summary(self, session_id: str) -> list[str]:
        """Return up to eight lines about a session with denials, none about one without."""
        if not self.total and not self._without_token:
            return []
        hosts = sorted(self._hosts.values(), key=lambda host: -host.requests)
        common = hosts[:MAX_TARGETS]
        named = ", ".join(f"{denied_text(host)} ({host.requests}x)" for host in common)
        more = f" and {len(hosts) - MAX_TARGETS} more" if len(hosts) > MAX_TARGETS else ""
        lines = []
        if named:  # else it is all told elsewhere
            lines.append(f"{self._shown} denied, {self._allowed} allowed: {named}{more}")
        lines += filter(None, self._out_of_reach)
        if self._without_token:
            lines.append(self._told_without_token())
        flags = [clean(flag) for host in common for flag in host.allow_flags]
        if flags:
            lines.append(f"to allow: {' '.join(flags[:MAX_FLAGS])}")
        if len(hosts) > MAX_TARGETS or len(flags) > MAX_FLAGS:
            lines.append(f"all that was denied, as a profile: nono-trio audit learn {session_id}")
        return [*lines, f"details: nono-trio audit show {session_id}"]

    def _told_without_token(self) -> str:
        """The note that names the hosts; one record may stand for more requests than its own."""
        named = [
            target
            for target in self._without_token
            if target[0] and not target[0].startswith(OWN_TARGETS)
        ]
        shown = [target_text(*target) for target in named[:MAX_TARGETS]]
        return WITHOUT_TOKEN.format(
            f"{', '.join(shown)} and maybe others" if shown else "some hosts"
        )

    @property
    def _shown(self) -> int:
        """Denials as a person counts them: not the look-up before a request, which is a record
        of its own."""
        before = sum(host.look_ups for host in self._hosts.values() if host.ports)
        return self.total - self._told_elsewhere - before
