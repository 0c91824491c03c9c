"""Which hosts are intercepted, and the verdict about one request to such a host.

Rules of this file:
- A host that an endpoint rule names is intercepted on every port. `no_intercept` for it is a
  contradiction, so it raises UsageError.
- A host without a dot has the rules of each full name that it is looked up as.
- A deny rule beats every other rule. Then an allow rule decides, then an audit rule, which lets
  through and is recorded. A host with allow or audit rules is closed for all that they don't
  cover, whatever entry of --allow-domain names the host too: such an entry opens the host to no
  more than its rules. A host with deny rules alone is open for the rest.
- What a verdict allows is one spelling: `target` is what was matched, and what must be sent.
- A request to a host without endpoint rules is not judged, and its target stays as it came.
- An MCP rule that opens is also an endpoint rule: it allows the requests that carry messages. A
  verdict that allows has the MCP rules about the request's path, which judge its body.
- A header field that lets a server take another method or path than the request's own, or a second
  path, is refused where a rule decides about them.
"""

from __future__ import annotations

import importlib
import shlex
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from msgspec.structs import replace

from nono_trio.core.http.override_fields import is_override_field
from nono_trio.core.log.redaction import REDACTED, redact_path
from nono_trio.core.net.host import Host
from nono_trio.core.policy.endpoint_flag import (
    allow_endpoint_flag,
    drop_hint,
    shown_url,
    whole_port_flag,
)
from nono_trio.core.policy.endpoint_path import BadPath, CanonicalTarget, canonical_target
from nono_trio.core.policy.endpoint_rule import (
    DENY_ENDPOINT_FLAG,
    EndpointRule,
)
from nono_trio.core.policy.endpoint_verdict import DEFAULT_RULE, EndpointVerdict
from nono_trio.core.policy.host_table import HostTable
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.resolver_files import look_up_names
from nono_trio.core.policy.rule import (
    ALLOW_FLAG,
    ANY_PORT,
    NO_INTERCEPT_FLAG,
    TCP_SCHEME,
    parse_deny,
    with_parents,
)
from nono_trio.core.policy.rule_entry import parse_rule_entry
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from nono_trio.core.policy.mcp_rule import McpRule
    from nono_trio.core.policy.rule import Rule

INTERCEPT_FLAG: Final = "--intercept"
ALL_HOSTS: Final = "all"
NO_RULE_ALONE: Final = "no endpoint rule is for this path alone: it has a * or a password"
NO_SHORT_RULE: Final = (
    "no short endpoint rule is for this path alone: its first segment is too long"
)

Value = TypeVar("Value")


class EndpointPolicy:
    """The endpoint rules of one session, and the hosts that are intercepted, fixed at its start."""

    def __init__(
        self,
        entries: Iterable[str] = (),
        intercept: Iterable[str] = (),
        no_intercept: Iterable[str] = (),
        *,
        observe: bool = False,
        search: Sequence[str] = (),
        source: Callable[[str, str], str] | None = None,
    ) -> None:
        """`entries` are rules with their action. Raises UsageError for one that can't be meant, and
        for contradictions.

        `search` are the domains that are appended to names without a dot. `source` returns the
        place of an entry, given parameter and entry.
        """
        self._source = source
        self._search = search
        self._observe = observe
        self.opened: list[Rule] = []
        """The host entries of the rules that open a host."""
        self._named: HostTable[EndpointRule] = HostTable()  # every rule, an MCP rule by its URL
        self._rules: HostTable[EndpointRule] = HostTable()
        self._mcp: HostTable[McpRule] = HostTable()
        rules = [*self._add_all(entries)]
        self._intercepted: HostTable[bool] = HostTable()
        self._excepted: HostTable[bool] = HostTable()
        self.intercepts_all = False
        """True if every host is intercepted, but those that `no_intercept` names."""
        for text in intercept:
            host = check_intercept(text)
            if host is None:
                self.intercepts_all = True
            else:
                self._intercepted.add(host.host, host.wildcard, True)
        for text in no_intercept:
            named = check_no_intercept(text)
            _check_contradiction(text, named, rules)
            self._excepted.add(named.host, named.wildcard, True)

    def _add_all(self, entries: Iterable[str]) -> Iterator[EndpointRule]:
        """Take the rules; yields the endpoint rule of each. Raises UsageError."""
        for entry in entries:
            rule, mcp = parse_rule_entry(entry)
            self._named.add(rule.host, rule.wildcard, rule)
            if mcp is not None:
                # All that judges is imported now: a run may import nothing once its command runs.
                importlib.import_module("nono_trio.core.policy.mcp_policy")
                self._mcp.add(rule.host, rule.wildcard, mcp)
            if mcp is None or mcp.opens:
                self._rules.add(rule.host, rule.wildcard, rule)
            if rule.action != "deny":
                self.opened.append(rule.host_rule)
            yield rule

    @property
    def intercepts_any(self) -> bool:
        """True if requests to some host are to be seen."""
        return self.intercepts_all or bool(self._named) or bool(self._intercepted)

    def has_rules(self, host: Host) -> bool:
        """Return True if an endpoint rule names the host, whatever its port."""
        return self._has(self._named, host)

    def intercepts(self, host: Host) -> bool:
        """Return True if requests to the host are to be seen, on every port."""
        if self.has_rules(host):
            return True
        if self._has(self._excepted, host):
            return False
        return self.intercepts_all or self._has(self._intercepted, host)

    def names(self, host: Host) -> bool:
        """Return True if an entry other than `--intercept all` has the host intercepted."""
        return self.has_rules(host) or (
            self.intercepts(host) and self._has(self._intercepted, host)
        )

    def _has(self, table: HostTable[Value], host: Host) -> bool:
        return next(self._find(table, host), None) is not None

    def _find(self, table: HostTable[Value], host: Host) -> Iterator[Value]:
        """The values for a host and for its full names."""
        yield from table.find(host)
        if self._search and host.address is None:
            for name in look_up_names(host.name, self._search)[:-1]:
                yield from table.find(Host(name))

    def allow_flag(self, host: Host, port: int) -> str | None:
        """Return the flag that opens another port of a host that rules open; else None. An entry of
        --allow-domain would leave every request of it to rules that are for other ports."""
        if all(rule.action == "deny" for rule in self._find(self._rules, host)):
            return None
        return whole_port_flag(host.name, port)

    def check_uninspected(self, allowed: Iterable[Rule]) -> None:
        """Raise UsageError for a tcp:// entry of a host that has endpoint rules: its bytes would
        have to pass without being looked at."""
        for one in allowed:
            if one.scheme != TCP_SCHEME or one.wildcard:
                continue
            rule = next(self._named.find(one.host), None)
            if rule is not None:
                raise UsageError(
                    f"{ALLOW_FLAG} {one.text} contradicts the rule {rule.text!a}: a host with"
                    " endpoint rules is intercepted on every port",
                    hint=f"drop {ALLOW_FLAG} {one.text}, or the rule",
                )

    def verdict(
        self,
        scheme: str,
        host: Host,
        port: int,
        method: str,
        target: str,
        fields: Iterable[bytes] = (),
    ) -> EndpointVerdict:
        """Return the verdict about a request to a host and port of the connection.

        `target` is in origin-form, as it came; `fields` are the names of its header fields in lower
        case. Raises nothing.
        """
        rules = [*self._find(self._rules, host)]
        mcp = [*self._find(self._mcp, host)] if self._mcp else []
        if not rules and not mcp:
            return EndpointVerdict(True, target, redact_path(target))
        try:
            canonical = canonical_target(target)
        except BadPath as fault:
            reason = format_reason(DenialCode.PATH_REFUSED, detail=fault.reason)
            recorded = redact_path(target)
            return EndpointVerdict(False, "", recorded, "deny", None, reason, status=400)
        denied = self._denied(rules, scheme, host, port, method, canonical)
        if denied is not None:
            return denied
        name = _overriding(fields)
        if name is not None:
            reason = format_reason(DenialCode.OVERRIDE_FIELD, name=name)
            return _refused(canonical, None, reason, f"send the request without {name}")
        opened = self._opened(rules, scheme, host, port, method, canonical)
        about = [one for one in mcp if one.endpoint.pattern.may_cover(canonical)]
        if not about or not opened.allowed:
            return opened
        from nono_trio.core.policy.mcp_policy import MessageRules  # imported with the rules

        messages = MessageRules(
            about, opened, scheme, host, port, method, canonical, self._observe, self._source
        )
        return replace(opened, messages=messages)

    def _denied(
        self, rules: Sequence[EndpointRule], scheme: str, host: Host, port: int, method: str,
        canonical: CanonicalTarget,
    ) -> EndpointVerdict | None:  # fmt: skip
        for rule in rules:
            if rule.action == "deny" and rule.may_cover(port, method, canonical):
                shown = shown_url(scheme, host, port, redact_path(canonical.path))
                code = DenialCode.ENDPOINT_DENIED
                reason = format_reason(code, method=method, url=shown, detail=rule.text)
                hint = drop_hint(DENY_ENDPOINT_FLAG, rule.text, rule.entry, self._source)
                return _refused(canonical, rule.text, reason, hint)
        return None

    def _opened(
        self, rules: Sequence[EndpointRule], scheme: str, host: Host, port: int, method: str,
        canonical: CanonicalTarget,
    ) -> EndpointVerdict:  # fmt: skip
        """The verdict of the rules that open, and of none of them."""
        opening = [rule for rule in rules if rule.action != "deny"]
        covering = [one for one in opening if one.covers(scheme, port, method, canonical)]
        recorded = redact_path(canonical.text)
        for action in ("allow", "audit"):
            for rule in covering:
                if rule.action == action:
                    return EndpointVerdict(
                        True, canonical.text, recorded, rule.action, rule.text,
                        observed=action == "audit",
                    )  # fmt: skip
        if not opening:
            return EndpointVerdict(True, canonical.text, recorded, "allow", DEFAULT_RULE)
        if self._observe:
            return EndpointVerdict(
                True, canonical.text, recorded, "audit", DEFAULT_RULE, observed=True
            )
        code = DenialCode.ENDPOINT_NOT_ALLOWED
        if canonical.hides_slash and not any(one.encoded_slash for one in opening):
            code = DenialCode.ENCODED_SLASH
        path = redact_path(canonical.path)
        reason = format_reason(code, method=method, url=shown_url(scheme, host, port, path))
        flag = allow_endpoint_flag(scheme, host, port, method, path)
        hint = _why_no_flag(path) if flag is None else f"allow it with {flag}"
        return _refused(canonical, DEFAULT_RULE, reason, hint)


def _overriding(fields: Iterable[bytes]) -> str | None:
    for field in fields:
        if is_override_field(field):
            return field.decode("ascii")
    return None


def _why_no_flag(path: str) -> str:
    return NO_RULE_ALONE if "*" in path or REDACTED in path else NO_SHORT_RULE


def _refused(
    canonical: CanonicalTarget, rule: str | None, reason: str, hint: str
) -> EndpointVerdict:
    recorded = redact_path(canonical.text)
    return EndpointVerdict(False, canonical.text, recorded, "deny", rule, reason, hint)


def check_intercept(text: str) -> Rule | None:
    """Parse an --intercept entry: HOST, *.SUFFIX, or None for `all`. Raises UsageError."""
    return None if text == ALL_HOSTS else _parse_host(INTERCEPT_FLAG, text)


def check_no_intercept(text: str) -> Rule:
    """Parse a --no-intercept entry: HOST or *.SUFFIX. Raises UsageError."""
    return _parse_host(NO_INTERCEPT_FLAG, text)


def _parse_host(flag: str, text: str) -> Rule:
    """Parse HOST or *.SUFFIX. Raises UsageError."""
    form = "an entry is HOST or *.SUFFIX"
    if text == ALL_HOSTS:
        hint = f"without {INTERCEPT_FLAG} only the hosts of endpoint rules are intercepted"
        raise UsageError(f"{flag} {text!a}: expected a host, got all of them", hint=hint)
    try:
        rule = parse_deny(text)
    except UsageError as error:
        message = error.message.partition(": ")[2]
        raise UsageError(f"{flag} {text!a}: {message}", hint=form) from None
    if rule.ports != (ANY_PORT,) or text.endswith(":*"):
        name = f"*.{rule.host.name}" if rule.wildcard else rule.host.bracketed()
        hint = f"write {flag} {shlex.quote(name)}, which is for every port"
        raise UsageError(f"{flag} {text!a}: expected a host without a port", hint=hint)
    return rule


def _check_contradiction(text: str, named: Rule, rules: Iterable[EndpointRule]) -> None:
    """Refuse an entry that excepts a host of an endpoint rule from interception."""
    for rule in rules:
        if overlap(named, rule):
            raise UsageError(
                f"{NO_INTERCEPT_FLAG} {text} contradicts the rule {rule.text!a}, which needs the"
                " requests to be seen",
                hint=f"drop {NO_INTERCEPT_FLAG} {shlex.quote(text)}, or the rule",
            )


class Named(Protocol):
    """An entry for a host, or for every name below it."""

    @property
    def host(self) -> Host:
        """The host, or the suffix."""
        ...

    @property
    def wildcard(self) -> bool:
        """True for a suffix."""
        ...


def overlap(named: Named, rule: Named) -> bool:
    """Return True if one host may be meant by both."""
    table: HostTable[bool] = HostTable()
    table.add(named.host, named.wildcard, True)
    if not rule.wildcard:
        return any(table.find(rule.host))
    if not named.wildcard:
        table = HostTable()
        table.add(rule.host, True, True)
        return any(table.find(named.host))
    names = (named.host.name, rule.host.name)
    return names[0] in with_parents(names[1]) or names[1] in with_parents(names[0])
