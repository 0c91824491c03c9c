"""Credentials from --credential and from profiles, and what they open.

Rules of this file:
- `--credential NAME[=SOURCE][@HOST[:PORT],...]` goes over the table of that name: a source or hosts
  that it gives take the place of the table's. What follows the last `@` are hosts.
- A bound host is opened at its port, and its requests are seen, on every port. For that it is added
  to the entries of --allow-domain and --intercept, with the credential as their source. So all that
  shows or judges those entries has it.
- The endpoint rules of a preset hold for a host unless the user has a rule that opens it. A deny
  rule of the user's does not count: it must not open the rest.
- --no-intercept for a bound host, or for that of a token URL, is a contradiction.
- A token URL of a login is opened for POST.
- No error has the text of a source: it may be a secret that was written in its place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from nono_trio.config.public_suffixes import is_public
from nono_trio.core.credentials.credential import CREDENTIAL_FLAG, check_wildcards
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.presets import PRESETS
from nono_trio.core.credentials.route import ROUTE_FLAG, make_route
from nono_trio.core.policy.endpoint_policy import check_no_intercept, overlap
from nono_trio.core.policy.rule import NO_INTERCEPT_FLAG, has_path
from nono_trio.core.policy.rule_entry import parse_rule_entry
from nono_trio.core.profile.credential_table import CredentialTable
from nono_trio.core.profile.values import expand
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from nono_trio.core.credentials.credential import BoundHost, Credential
    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.endpoint_rule import EndpointRule


class GivenCredential(NamedTuple):
    """A parsed --credential."""

    name: str
    source: str | None
    hosts: tuple[str, ...]


class NamedCredential(NamedTuple):
    """A credential and its place: the flag, or the line of a profile."""

    credential: Credential
    place: str
    has_own_endpoints: bool  # of the user's, not the preset's


def parse_given(text: str) -> GivenCredential:
    """Parse NAME[=SOURCE][@HOST[:PORT],...]. Raises UsageError."""
    name, equals, rest = text.partition("=")
    if not equals or "@" in name:
        name, _, hosts = text.partition("@")
        _require(bool(hosts) or "@" not in text, name, "expected a host after @")
        return GivenCredential(name, None, _hosts(name, hosts) if hosts else ())
    source, at, hosts = rest.rpartition("@")
    if not at:
        source, hosts = rest, ""
    _require(bool(source), name, "expected a source after =")
    _require(bool(hosts) or not at, name, "expected a host after @")
    return GivenCredential(name, source, _hosts(name, hosts) if hosts else ())


def settle_credentials(
    given: Sequence[str],
    tables: Mapping[str, CredentialTable],
    environment: Mapping[str, str],
    variables: Mapping[str, str],
    place: Callable[[str], str],
    routes: Sequence[str] = (),
) -> list[NamedCredential]:
    """Put flags and tables together. Raises UsageError for what can't be meant.

    `environment` is the caller's, `variables` are those of paths. `place` names the line of a
    table. `routes` are names of credentials that get a reverse route.
    """
    flags: dict[str, GivenCredential] = {}
    for text in given:
        one = parse_given(text)
        if flags.setdefault(one.name, one) != one:
            raise UsageError(
                f"{CREDENTIAL_FLAG}: {one.name!a} is given twice, with other settings",
                hint="give it once, with all hosts: NAME@HOST,HOST",
            )
    for name in routes:
        if name not in tables and name not in flags:
            raise UsageError(
                f"{ROUTE_FLAG} {name!a}: there is no such credential",
                hint=f"add {CREDENTIAL_FLAG} {name}{'' if name in PRESETS else '=SOURCE@HOST'}",
            )
    found = []
    for name in dict.fromkeys([*tables, *flags]):
        table, flag = tables.get(name, CredentialTable()), flags.get(name)
        routed = name in routes or bool(table.route)
        credential = _made(name, table, flag, environment, variables, routed=routed)
        check_wildcards(credential, is_public)
        if routed:
            make_route(credential)
        where = place(name) if flag is None else CREDENTIAL_FLAG
        found.append(NamedCredential(credential, where, bool(table.endpoints)))
    return found


def add_entries(
    found: Sequence[NamedCredential],
    given: dict[str, Any],
    note_source: Callable[[str, str, str], None],
) -> list[Credential]:
    """Add what the credentials open to the entries in `given`, each with its source.

    Returns the credentials with the endpoint rules that hold. Raises UsageError for a
    contradiction.
    """
    excepted = [(text, check_no_intercept(text)) for text in given["no_intercept"]]
    opening = [*_opening(given)]
    settled = []
    for named in found:
        credential = _without_answered(named, opening)
        rules = [f"allow {one}" for one in credential.endpoints]
        parsed = [parse_rule_entry(one)[0] for one in rules]
        for host in credential.hosts:
            for text, rule in excepted:
                if host.scheme == "https" and overlap(rule, host):
                    raise UsageError(
                        f"{NO_INTERCEPT_FLAG} {text} contradicts the credential {credential.name},"
                        " which needs the requests to be seen",
                        hint=f"drop {NO_INTERCEPT_FLAG} {text}, or the credential",
                    )
            if not any(_opens(one, host) for one in parsed):
                _add(given, "allow_domain", _entry(host), named.place, note_source)
            if host.scheme == "https":
                _add(given, "intercept", _entry_without_port(host), named.place, note_source)
        for rule_text in rules:
            _add(given, "endpoint", rule_text, named.place, note_source)
        if credential.login is not None:
            _open_token_urls(credential, credential.login, given, named.place, note_source)
        settled.append(credential)
    return settled


def _open_token_urls(
    credential: Credential,
    login: LoginSettings,
    given: dict[str, Any],
    place: str,
    note_source: Callable[[str, str, str], None],
) -> None:
    """Open only the token URLs of a login, for POST: another URL of their hosts may give tokens
    that are not captured. A bound host is open already."""
    for url in login.token_urls:
        for text in given["no_intercept"]:
            if url.scheme == "https" and overlap(check_no_intercept(text), _HostOf(url.host)):
                raise UsageError(
                    f"{NO_INTERCEPT_FLAG} {text} contradicts the login {credential.name}, which"
                    f" needs the answers of {url.text} to be seen",
                    hint=f"drop {NO_INTERCEPT_FLAG} {text}, or the login",
                )
        if not credential.is_bound_to(url.scheme, url.host, url.port):
            _add(given, "endpoint", f"allow POST {url.text}", place, note_source)
        if url.scheme == "https":
            _add(given, "intercept", url.host.bracketed(), place, note_source)


class _HostOf(NamedTuple):
    """One host, as rules name it."""

    host: Host
    wildcard: bool = False


def _made(
    name: str,
    table: CredentialTable,
    flag: GivenCredential | None,
    environment: Mapping[str, str],
    variables: Mapping[str, str],
    *,
    routed: bool,
) -> Credential:
    source, hosts = table.source, [*table.hosts]
    if flag is not None:
        source, hosts = flag.source or source, [*(flag.hosts or hosts)]
    return make_credential(
        name,
        environment,
        source=source,
        hosts=hosts,
        places=table.places,
        variables=table.variables,
        files=[expand(one, variables) for one in table.files],
        optional=bool(table.optional),
        elsewhere=table.elsewhere or "deny",
        endpoints=table.endpoints,
        ttl=table.ttl,
        headers=table.headers,
        parameters=table.parameters,
        oauth2=None if table.oauth2 is None else table.oauth2.settings(name),
        login=None if table.login is None else table.login.settings(name),
        kind=table.kind,
        secret_access_key=table.secret_access_key,
        session_token=table.session_token,
        route=routed,
    )


def _opening(given: Mapping[str, Any]) -> Iterator[EndpointRule]:
    """Yield the user's rules that open something of a host."""
    entries = [f"allow {one}" for one in given["allow_domain"] if has_path(one)]
    for entry in (*entries, *given["endpoint"]):
        if not entry.startswith("deny "):
            yield parse_rule_entry(entry)[0]


def _without_answered(named: NamedCredential, opening: Sequence[EndpointRule]) -> Credential:
    """Return the credential without rules of its preset for hosts that the user has rules for."""
    credential = named.credential
    if named.has_own_endpoints or not credential.endpoints or not opening:
        return credential
    kept = tuple(
        text
        for text in credential.endpoints
        if not any(overlap(one, parse_rule_entry(f"allow {text}")[0]) for one in opening)
    )
    return replace(credential, endpoints=kept)


def _opens(rule: EndpointRule, host: BoundHost) -> bool:
    return (
        rule.scheme == host.scheme
        and rule.wildcard == host.wildcard
        and rule.host == host.host
        and host.port in rule.ports
    )


def _entry(host: BoundHost) -> str:
    return f"{_entry_without_port(host)}:{host.port}"


def _entry_without_port(host: BoundHost) -> str:
    return ("*." if host.wildcard else "") + host.host.bracketed()


def _add(
    given: dict[str, Any],
    name: str,
    entry: str,
    place: str,
    note_source: Callable[[str, str, str], None],
) -> None:
    if entry not in given[name]:
        given[name] = (*given[name], entry)
        note_source(name, entry, place)


def _hosts(name: str, text: str) -> tuple[str, ...]:
    hosts = tuple(text.split(","))
    _require(all(hosts), name, "expected a host before and after each comma")
    return hosts


def _require(holds: bool, name: str, reason: str) -> None:
    if not holds:
        shown = name if name.isprintable() and len(name) <= 32 else "NAME"
        raise UsageError(
            f"{CREDENTIAL_FLAG} {shown!a}: {reason}",
            hint=f"{CREDENTIAL_FLAG} NAME, NAME@HOST, or NAME=env://VARIABLE@HOST",
        )
