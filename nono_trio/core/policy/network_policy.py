"""The network policy: whether a host and port may be reached, by which rule, and what changes it.

Rules of this file:
- The order is: blocked network, metadata names and never-allowed addresses, deny entries, allow
  entries, default deny. A deny entry beats an allow entry; nothing opens a metadata name or a
  never-allowed address.
- An allow entry does not restrict the others. Of several entries for a host, the one that requires
  least of a connection decides.
- `decide` uses the name alone and comes before DNS, so a denied name is never looked up.
  `check_address` comes after DNS, for every address of the answer.
- Loopback needs an entry that says loopback, or a pin. Other addresses of this machine need an
  entry that is exactly the address, or a pin. Private ranges need an exact entry, or a pin: the
  owner of a wildcard's zone may point a name of it into the local network.
- A host that is intercepted (endpoint_policy.py) is so on every port, whatever an entry says about
  its bytes; an entry that says that they are not looked at is refused beside an endpoint rule.
- A name without a dot is looked up with the system's search domains. Each full name that results is
  checked beforehand, but needs no entry of its own.
- Reasons and hints quote only canonical hosts, and entries as the user wrote them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from msgspec.structs import replace

from nono_trio.core.net.address import AddressClass
from nono_trio.core.net.fake_ip import EVERY_PORT_NETWORKS
from nono_trio.core.net.host import Host
from nono_trio.core.policy.allowed_host import parse_allowed
from nono_trio.core.policy.host_limits import may_be_public, may_reach, protection_of
from nono_trio.core.policy.policy_verdict import Verdict
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.resolved_address import in_every_spelling, resolved_address
from nono_trio.core.policy.resolved_denial import closed, hint_for, resolved_reason
from nono_trio.core.policy.resolver_files import look_up_names
from nono_trio.core.policy.rule import (
    ALLOW_FLAG,
    ANY_PORT,
    NO_INTERCEPT_FLAG,
    TCP_SCHEME,
    TLS_SCHEME,
    WEB_PORTS,
    Inspection,
    has_path,
    is_metadata_name,
    parse_deny,
    parse_pin,
)
from nono_trio.core.policy.rule_table import RuleTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from nono_trio.core.net.address import Address
    from nono_trio.core.policy.endpoint_policy import EndpointPolicy
    from nono_trio.core.policy.endpoint_verdict import EndpointVerdict
    from nono_trio.core.policy.resolved_address import ResolvedAddress
    from nono_trio.core.policy.rule import Rule

# The number of verdicts kept. The child chooses the keys, so all are dropped when it is full. A
# verdict takes less than 1 KiB: 4 MiB in all.
VERDICT_CACHE: Final = 4096


class Policy:
    """The rules of one session, fixed when it starts. `Policy()` denies everything."""

    def __init__(
        self,
        allow: Iterable[Rule] = (),
        deny: Iterable[Rule] = (),
        pins: dict[tuple[str, int], tuple[Address, ...]] | None = None,
        *,
        block: bool = False,
        observe: bool = False,
        search: Sequence[str] = (),
        source: Callable[[str, str], str] | None = None,
        endpoints: EndpointPolicy | None = None,
    ) -> None:
        """`source` returns the place of an entry, given parameter and entry; hints name it.

        `observe`: a host that no entry names is allowed, unless it is closed for another reason.
        """
        self._source = source or _flag_of
        self.search = tuple(search)
        """The system's search domains, which are appended to names without a dot."""
        self._allow = RuleTable(allow)
        self._deny = RuleTable(one for rule in deny for one in _denied_spellings(rule))
        self._pins = pins or {}
        self._block = block
        self._observe = observe
        self.endpoints = endpoints  # None if no host is intercepted
        self._verdicts: dict[tuple[str, int], Verdict] = {}

    @classmethod
    def build(
        cls,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        resolve: Sequence[str] = (),
        block: bool = False,
        search: Sequence[str] = (),
        source: Callable[[str, str], str] | None = None,
        *,
        observe: bool = False,
        endpoints: Sequence[str] = (),
        intercept: Sequence[str] = (),
        no_intercept: Sequence[str] = (),
    ) -> Self:
        """Policy from the texts of the flags. Raises UsageError naming the flag and the entry.

        `endpoints` are endpoint rules with their action, as in `deny POST https://a.test/**`.
        """
        pins: dict[tuple[str, int], tuple[Address, ...]] = {}
        for pin in map(parse_pin, resolve):
            key = (pin.host.name, pin.port)
            pins[key] = (*pins.get(key, ()), *pin.addresses)
        allowed = [*map(parse_allowed, allow)]
        looked_into = None
        endpoints = [*(f"allow {text}" for text in allow if has_path(text)), *endpoints]
        if endpoints or intercept or no_intercept:
            from nono_trio.core.policy.endpoint_policy import (  # late: few sessions have any
                EndpointPolicy,
            )

            looked_into = EndpointPolicy(
                endpoints, intercept, no_intercept, observe=observe, search=search, source=source
            )
            looked_into.check_uninspected(allowed)
            allowed += looked_into.opened
        return cls(
            allowed, map(parse_deny, deny), pins, block=block, observe=observe, search=search,
            source=source, endpoints=looked_into,
        )  # fmt: skip

    def decide(self, host: Host, port: int) -> Verdict:
        """Verdict for a host and port by name alone, before any DNS."""
        key = (host.name, port)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._decide(host, port)
            if len(self._verdicts) >= VERDICT_CACHE:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict

    @property
    def intercepts_any(self) -> bool:
        """True if requests to some host are to be seen."""
        return self.endpoints is not None and self.endpoints.intercepts_any

    def intercepts(self, host: Host, port: int) -> bool:
        """Return True if a connection to the host must not pass without its requests being seen.

        The host may be denied. With `--intercept all` what a tcp:// entry names is not.
        """
        if self.endpoints is None or not self.endpoints.intercepts(host):
            return False
        return self.endpoints.names(host) or all(
            rule.scheme != TCP_SCHEME for rule in self._allow.find(host, port)
        )

    def endpoint_verdict(
        self,
        scheme: str,
        host: Host,
        port: int,
        method: str,
        target: str,
        fields: Iterable[bytes] = (),
    ) -> EndpointVerdict:
        """Verdict for one request, as `EndpointPolicy.verdict`; the host itself must be allowed.

        Raises AssertionError in a session that intercepts no host.
        """
        if self.endpoints is None:
            raise AssertionError("no host is intercepted")
        return self.endpoints.verdict(scheme, host, port, method, target, fields)

    def no_intercept_flag(self, host: Host) -> str | None:
        """Return the flag that leaves an intercepted host alone; None if none does, as for a host
        whose rules need its requests."""
        endpoints = self.endpoints
        if endpoints is None or endpoints.has_rules(host):
            return None
        return f"{NO_INTERCEPT_FLAG} {host.bracketed()}"

    @property
    def remembered(self) -> int:
        """The number of verdicts kept; at most VERDICT_CACHE."""
        return len(self._verdicts)

    @property
    def named_ports(self) -> frozenset[int]:
        """The ports of allow entries, including the default ports, without those of `:*`."""
        return frozenset(self._allow.ports)

    def decides_every_port(self, host: Host) -> bool:
        """Return True if an entry (`HOST:*`) may allow any port of the host."""
        return not self._block and any(self._allow.find(host, ANY_PORT))

    @property
    def every_port_networks(self) -> tuple[str, ...]:
        """The networks in the cage to which connections to every port must be decided."""
        if self._block:
            return ()
        hosts = [rule.host for rule in self._allow.every_port]
        literals = [f"{one.address}/{one.address.max_prefixlen}" for one in hosts if one.address]
        has_names = any(one.address is None for one in hosts)
        return (*(EVERY_PORT_NETWORKS if has_names else ()), *dict.fromkeys(literals))

    def addresses(self, host: Host, port: int) -> tuple[str, ...] | None:
        """Pinned addresses to dial instead of asking DNS, in their order; None without a pin."""
        pinned = self._pins.get((host.name, port))
        return None if pinned is None else tuple(map(str, pinned))

    def denial_of(self, host: Host, port: int) -> Verdict | None:
        """Return the verdict of a blocked network or of a deny entry; None if neither applies.

        A host that no entry allows has no such verdict.
        """
        if self._block:
            reason = format_reason(DenialCode.NETWORK_BLOCKED)
            return Verdict(False, None, reason, self._drop("block_net"))
        spelled = (host,) if host.address is None else in_every_spelling(host.address)
        rule = self._deny_rule(spelled, port)
        if rule is None:
            return None
        reason = format_reason(DenialCode.ON_DENY_LIST, destination=_shown(host, port))
        return self._denied(reason, rule)

    def look_up_names(self, host: Host) -> tuple[str, ...]:
        """Return the full names that a look-up of the host asks for, in order; its own is the last
        one."""
        return look_up_names(host.name, self.search)

    def check_address(
        self, host: Host, port: int, address: str, *, is_local: bool = False
    ) -> Verdict:
        """Verdict for one resolved address of an allowed host; a denied host stays denied.

        Call it for every address of the answer: a single denial denies the whole name. A text that
        is not an IP address is denied. `is_local`: the address is one of this machine's.
        """
        verdict = self.decide(host, port)
        if not verdict.allowed:
            return verdict
        resolved = resolved_address(address)
        if resolved is None:
            reason = format_reason(DenialCode.RESOLVED_NO_ADDRESS, host=host.bracketed())
            return Verdict(False, None, reason)
        return self._check_resolved(host, port, resolved, is_local) or verdict

    def _denied(self, reason: str, rule: Rule) -> Verdict:
        return Verdict(False, rule.text, reason, self._drop("deny_domain", rule.text))

    def _drop(self, name: str, entry: str = "") -> str:
        """The hint that removes a denial: the flag, the flag with its value, or the line of a
        profile."""
        source, flag = self._source(name, entry), _flag_of(name, entry)
        if source == flag:
            return f"drop {flag} {entry}".rstrip()
        return f"drop {source}" if source.startswith("--") else f"take it out of {source}"

    def _decide(self, host: Host, port: int) -> Verdict:
        protected = protection_of(host)
        if protected is not None and not self._block:
            return Verdict(False, None, protected)
        denial = self.denial_of(host, port)
        if denial is not None:
            return denial
        rules = [*self._allow.find(host, port)]
        if not rules and self._observe and may_be_public(host):
            return self._searched_denial(host, port) or self._observed(host, port)
        if not rules:
            return self._not_opened(host, port)
        return self._searched_denial(host, port) or self._allowed(host, port, rules)

    def _not_opened(self, host: Host, port: int) -> Verdict:
        """The denial of a host or a port that no entry opens."""
        endpoints, code, shown = self.endpoints, DenialCode.NOT_ALLOWED, _shown(host, port)
        flag = None if endpoints is None else endpoints.allow_flag(host, port)
        if flag is not None:
            code = DenialCode.PORT_WITHOUT_RULE
        hint = f"allow it with {flag or f'{ALLOW_FLAG} {shown}'}"
        has_rules = endpoints is not None and endpoints.has_rules(host)
        reason = format_reason(code, destination=shown)
        return Verdict(False, None, reason, hint, intercepted=has_rules)

    def _allowed(self, host: Host, port: int, rules: Sequence[Rule]) -> Verdict:
        rule = max(rules, key=lambda rule: rule.inspection(port))  # of equal ones the nearest
        intercepted = self.intercepts(host, port)
        return Verdict(
            True,
            rule.text,
            inspection=Inspection.NAME if intercepted else rule.inspection(port),
            scheme=rule.scheme,
            intercepted=intercepted,
            tls_only=all(one.scheme == TLS_SCHEME for one in rules),
            looked_up=self._searched_names(host, port),
        )

    def _observed(self, host: Host, port: int) -> Verdict:
        """As an entry for this host and port alone would allow it."""
        inspection = Inspection.NAME if port in WEB_PORTS else Inspection.NONE
        looked_up = self._searched_names(host, port)
        intercepted = self.intercepts(host, port)
        return Verdict(
            True, inspection=inspection, looked_up=looked_up, observed=True, intercepted=intercepted
        )

    def _searched_names(self, host: Host, port: int) -> tuple[str, ...]:
        """The full names that the look-up of an allowed host asks for; () if it asks for one."""
        if host.address is not None or (host.name, port) in self._pins:
            return ()
        names = self.look_up_names(host)
        return names if len(names) > 1 else ()

    def _searched_denial(self, host: Host, port: int) -> Verdict | None:
        """The denial of a host without a dot, one of whose full names is closed."""
        for name in self._searched_names(host, port):
            if is_metadata_name(name):
                code = DenialCode.SEARCHED_METADATA_NAME
                return Verdict(False, None, format_reason(code, host=host.name, name=name))
            rule = self._deny_rule((Host(name),), port)
            if rule is not None:
                code = DenialCode.SEARCHED_ON_DENY_LIST
                return self._denied(format_reason(code, host=host.name, name=name), rule)
        return None

    def _deny_rule(self, spelled: Iterable[Host], port: int) -> Rule | None:
        return next((rule for one in spelled for rule in self._deny.find(one, port)), None)

    def _check_resolved(
        self, host: Host, port: int, resolved: ResolvedAddress, is_local: bool
    ) -> Verdict | None:
        """The denial of one address of an allowed host, or None."""
        if resolved.address_class.is_never_allowed:
            return closed(host, resolved, None)
        denial = self._deny_rule(resolved.spelled, port)
        if denial is not None:
            reason = resolved_reason(DenialCode.RESOLVED_ON_DENY_LIST, host, resolved)
            return self._denied(reason, denial)
        if is_local and resolved.address_class is not AddressClass.LOOPBACK:
            return self._check_local(host, port, resolved)
        if self._is_opened(host, port, resolved):
            return None
        return closed(host, resolved, hint_for(resolved, _shown(host, port)))

    def _check_local(self, host: Host, port: int, resolved: ResolvedAddress) -> Verdict | None:
        """The denial of an address of this machine, whose services may trust local clients."""
        if self._is_pinned(host, port, resolved) or any(self._allow.find(resolved.host, port)):
            return None
        reason = resolved_reason(DenialCode.RESOLVED_LOCAL, host, resolved)
        hint = f"name the address with {ALLOW_FLAG} {_shown(resolved.host, port)}"
        return Verdict(False, None, reason, hint)

    def _is_pinned(self, host: Host, port: int, resolved: ResolvedAddress) -> bool:
        return resolved.host.address in self._pins.get((host.name, port), ())

    def _is_opened(self, host: Host, port: int, resolved: ResolvedAddress) -> bool:
        if resolved.address_class is AddressClass.PUBLIC:
            return True
        if self._is_pinned(host, port, resolved):
            return True
        return any(may_reach(rule, resolved.address_class) for rule in self._allow.find(host, port))


def _denied_spellings(rule: Rule) -> Iterable[Rule]:
    """Return a deny rule once for each spelling of its address: a mapped one denies the plain one
    too."""
    if rule.host.address is None:
        return (rule,)
    return (replace(rule, host=host) for host in in_every_spelling(rule.host.address))


def _flag_of(name: str, _entry: str) -> str:
    return "--" + name.replace("_", "-")


def _shown(host: Host, port: int) -> str:
    return f"{host.bracketed()}:{port}"
