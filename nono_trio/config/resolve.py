"""How flags, environment, profiles and the user's defaults come together.

Rules of this file: what has one value is the first that gives one, in this order: flag,
environment, profile, config.toml; lists add up, so that a deny from any of them holds; names of
groups are replaced by their hosts here, before any rule is parsed. What comes out is as if it had
all been given with flags; the profile's line that something comes from is kept, so that `why` can
name it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from nono_trio.config.changeable import (
    changeable_profiles,
    changeable_registries,
    writable_paths,
)
from nono_trio.config.public_suffixes import suffix_warnings
from nono_trio.config.user_paths import (
    configuration_directory,
    defaults_file,
    path_variables,
)
from nono_trio.core.policy.host_groups import PACKAGE_REGISTRIES, expand_groups
from nono_trio.core.policy.variables import VariableRules, check_allow, check_pattern, socket_path
from nono_trio.core.profile.fields import FIELDS, flag_of
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.posix.paths import is_in
from nono_trio.sandbox.filesystem.plan import FileOptions, PathRequest, working_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from nono_trio.config.options import Given, HostFiles, Sources
    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.log.policy_json import UsedProfile
    from nono_trio.core.profile.credential_table import CredentialTable
    from nono_trio.core.profile.schema import SourcedProfile

# Fields whose entries are not added to a parameter: each path keeps its source.
_PATHS: Final = ("path", "seed")
# Between the names of several profiles that a kept home goes by.
_SEVERAL: Final = "+"


class Chosen(msgspec.Struct, frozen=True):
    """The settled parameters of a command: `given` has them with a profile's entries.

    `sources` are as NetworkOptions has them.
    """

    given: dict[str, Any]
    requests: Sequence[PathRequest] = ()
    deny: Sequence[str] = ()
    bypass: Sequence[str] = ()
    set_variables: dict[str, str] = msgspec.field(default_factory=dict)
    host_files: dict[str, HostFiles] = msgspec.field(default_factory=dict)
    notes: Sequence[str] = ()
    sources: Sources = msgspec.field(default_factory=dict)
    configuration: str | None = None
    profile: str = "default"
    seeds: tuple[tuple[str, str], ...] = ()
    profiles: Sequence[UsedProfile] = ()
    credentials: Sequence[Credential] = ()
    tables: dict[str, CredentialTable] = msgspec.field(default_factory=dict)

    @property
    def variables(self) -> VariableRules:
        """The patterns of all of them."""
        return VariableRules(allow=self.given["env_allow"], deny=self.given["env_deny"])


def choose(given: Given) -> Chosen:
    """Put flags, environment, profiles and the user's defaults together.

    Raises UsageError for a profile that can't be read, and for invalid patterns.
    """
    values = dict(given.values) | {"endpoint": ()}
    for name, entries in given.also.items():
        values[name] = (*values[name], *entries)
    _check_patterns(values)
    directory = working_directory(FileOptions(workdir=values.get("workdir")))
    variables = path_variables(os.environ, directory)
    profiles = values["profile"]
    defaults = defaults_file(os.environ)
    if not (profiles or values["network_profile"] or os.path.lexists(defaults)):
        return _settled(Chosen(given=values), directory, variables)
    sourced, files, name, used = _load(profiles, values["network_profile"], defaults)
    sources: Sources = {}
    _add_lists(values, sourced, sources)
    _add_values(values, sourced, given.explicit, sources)
    whole = Chosen(
        given=values,
        requests=[*_requests(sourced, variables)],
        deny=_paths(sourced, "filesystem.deny", variables),
        bypass=_paths(sourced, "filesystem.bypass_protection", variables),
        set_variables=_set_variables(sourced, variables),
        host_files=_host_files(sourced, variables),
        sources=sources,
        profile=name,
        seeds=tuple(_seeds(sourced, variables)),
        profiles=used,
        tables=sourced.profile.credentials,
    )
    for table in whole.tables:
        key = f"credentials.{table}"
        _note_source(sources, "credential", table, f"{sourced.origin(key)}: {key}")
    return _settled(whole, directory, variables, files)


def _settled(
    chosen: Chosen, directory: str, variables: Mapping[str, str], files: Sequence[Path] = ()
) -> Chosen:
    """Put hosts for groups, close the profiles to the command, note what a person should know."""
    given = chosen.given
    _join_endpoints(given, chosen.sources)
    credentials = _credentials(chosen, variables)
    writable = [*writable_paths(given, chosen.requests, directory)]
    notes = changeable_profiles(files, writable)
    notes += changeable_registries(variables["HOME"], writable, directory)
    if given["block_net"] and given["allow_domain"]:
        notes.append("the network is blocked, the hosts that are allowed beside it are not reached")
    notes += _expand_groups(given, variables["HOME"], [*writable, directory], chosen.sources)
    notes += suffix_warnings(given["allow_domain"], given["endpoint"])
    if given["upstream_proxy"]:
        from nono_trio.core.policy.upstream_proxy import (  # late: few sessions have one
            FROM_ENVIRONMENT,
            environment_warnings,
        )

        if given["upstream_proxy"] == FROM_ENVIRONMENT:
            notes += environment_warnings(os.environ)
    # A command that can write a profile decides over the next cage.
    own = str(configuration_directory(os.environ))
    return replace(chosen, notes=notes, configuration=own, credentials=credentials)


def _credentials(chosen: Chosen, variables: Mapping[str, str]) -> Sequence[Credential]:
    """Put flags and tables together, and add what they open to the other entries."""
    given, sources = chosen.given, chosen.sources
    flags, routes = given.get("credential", ()), given.get("credential_route", ())
    if not (flags or routes or chosen.tables):
        return ()
    from nono_trio.config.credentials import add_entries, settle_credentials  # late: few sessions
    from nono_trio.startup import caller_environment

    def place(name: str) -> str:
        return sources.get("credential", {}).get(name, flag_of("credential"))

    def note(name: str, entry: str, source: str) -> None:
        _note_source(sources, name, entry, source)

    environment = caller_environment()
    found = settle_credentials(flags, chosen.tables, environment, variables, place, routes)
    return add_entries(found, given, note)


def _check_patterns(values: Mapping[str, Any]) -> None:
    checks = {"allowed_variable": check_allow, "denied_variable": check_pattern}
    for declared in FIELDS:
        check = checks.get(declared.kind)
        if check is None or declared.parameter is None:
            continue
        for pattern in values.get(declared.parameter, ()):
            arguments = []
            if check is check_allow:
                if _comes_with_its_socket(pattern, values):
                    continue
                arguments = [os.environ]
            try:
                check(pattern, *arguments)
            except UsageError as error:
                flag = flag_of(declared.parameter)
                raise UsageError(f"{flag}: {error.message}", hint=error.hint) from None


def _comes_with_its_socket(name: str, values: Mapping[str, Any]) -> bool:
    """Return whether a variable leads to a socket that a flag grants: it is passed on then."""
    path = socket_path(name, os.environ)
    if path is None:
        return False
    real = os.path.realpath(path)
    granted = (os.path.realpath(expand_home(one)) for one in values.get("allow_unix_socket", ()))
    return any(is_in(real, one) for one in granted)


def _load(
    profiles: Sequence[str], network_profile: str | None, defaults: Path
) -> tuple[SourcedProfile, list[Path], str, list[UsedProfile]]:
    """Put the defaults, some whole profiles and the network of the other together.

    Also returned: the files that are not ours, the name that the whole profiles go by (of a file
    its path), and all files with their digests. A missing file of defaults is no defaults.
    """
    from nono_trio.config.profiles import Found, load, load_found
    from nono_trio.core.profile.schema import Profile, SourcedProfile, merge

    whole, files = SourcedProfile(), []
    names: dict[str, None] = {}
    used: list[UsedProfile] = []
    if os.path.lexists(defaults):
        loaded = load_found(Found(defaults.name, "file", defaults), os.environ)
        files += [found.path for found in loaded.chain if found.source != "built-in"]
        used += loaded.used
        whole = loaded.sourced
    asked = [(profile, False) for profile in profiles]
    asked += [(network_profile, True)] if network_profile else []
    for reference, network_only in asked:
        loaded = load(reference, os.environ)
        files += [found.path for found in loaded.chain if found.source != "built-in"]
        used += loaded.used
        sourced = loaded.sourced
        if not network_only:
            found = loaded.found
            name = os.path.realpath(found.path) if found.source == "file" else found.name
            names[str(name)] = None
        if network_only:
            sourced = SourcedProfile(Profile(network=sourced.profile.network), sourced.origins)
        whole = merge(whole, sourced)
    return whole, files, _SEVERAL.join(names) or "default", used


def _entry(sourced: SourcedProfile, key: str) -> Any:  # noqa: ANN401  (whatever the schema has there)
    table, _, name = key.partition(".")
    return getattr(getattr(sourced.profile, table), name)


def _add_lists(given: dict[str, Any], sourced: SourcedProfile, sources: Sources) -> None:
    """Add the entries of lists; paths are granted apart, with their sources (`_requests`)."""
    for declared in FIELDS:
        name, key = declared.parameter, declared.key
        if (
            declared.merge != "adds_up"
            or declared.kind in _PATHS
            or name is None
            or name not in given
        ):
            continue
        entries = dict.fromkeys(given[name])
        for entry in _entry(sourced, key):
            if entry not in entries:
                entries[entry] = None
                _note_source(sources, name, entry, f"{sourced.origin(key, entry)}: {key}")
        given[name] = tuple(entries)


_ENDPOINT_ACTIONS: Final = {
    "allow_endpoint": "allow",
    "deny_endpoint": "deny",
    "allow_mcp_tool": "allow mcp",
    "deny_mcp_tool": "deny mcp",
}


def _join_endpoints(given: dict[str, Any], sources: Sources) -> None:
    """Put the rules of the flags beside those of tables, all with their action."""
    entries = dict.fromkeys(map(str, given["endpoint"]))
    for name, action in _ENDPOINT_ACTIONS.items():
        for text in given[name]:
            if name == "allow_endpoint":
                from nono_trio.core.policy.endpoint_rule import require_methods  # late: few have it

                require_methods(text)
            entry = f"{action} {text}"
            entries[entry] = None
            _note_source(sources, "endpoint", entry, sources.get(name, {}).get(text, flag_of(name)))
    given["endpoint"] = tuple(entries)


def _note_source(sources: Sources, name: str, entry: object, source: str) -> None:
    sources.setdefault(name, {}).setdefault(str(entry), source)


def _add_values(
    given: dict[str, Any], sourced: SourcedProfile, explicit: frozenset[str], sources: Sources
) -> None:
    """Put a profile's single values in the place of defaults."""
    for declared in FIELDS:
        name, key = declared.parameter, declared.key
        if declared.merge != "replaces" or name is None or name not in given or name in explicit:
            continue
        value = _entry(sourced, key)
        if value is not None:
            given[name] = value
            _note_source(sources, name, "", f"{sourced.origin(key)}: {key}")


def _requests(sourced: SourcedProfile, variables: Mapping[str, str]) -> Iterator[PathRequest]:
    from nono_trio.core.profile.values import expand

    for declared in FIELDS:
        if declared.grant is None:
            continue
        for entry in _entry(sourced, declared.key):
            origin = sourced.origin(declared.key, entry)
            yield PathRequest(
                expand(entry, variables),
                declared.grant,
                declared.single,
                f"{origin}: {declared.key}",
                optional=origin is not None and origin.built_in,
            )


def _seeds(sourced: SourcedProfile, variables: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    from nono_trio.core.profile.values import expand

    key = "filesystem.home_seed"
    for entry in _entry(sourced, key):
        yield expand(entry, variables), f"{sourced.origin(key, entry)}: {key}"


def _paths(sourced: SourcedProfile, key: str, variables: Mapping[str, str]) -> list[str]:
    from nono_trio.core.profile.values import expand

    return [expand(entry, variables) for entry in _entry(sourced, key)]


def _set_variables(sourced: SourcedProfile, variables: Mapping[str, str]) -> dict[str, str]:
    from nono_trio.core.profile.values import expand

    given: dict[str, str] = sourced.profile.environment.set
    return {name: expand(value, variables) for name, value in given.items()}


def _host_files(sourced: SourcedProfile, variables: Mapping[str, str]) -> dict[str, HostFiles]:
    """The files of single hosts, by canonical host."""
    network = sourced.profile.network
    if not (network.tls_ca or network.client_cert or network.client_key):
        return {}
    from nono_trio.config.options import HostFiles
    from nono_trio.core.net.host import parse_rule_host
    from nono_trio.core.profile.values import expand

    found: dict[str, HostFiles] = {}
    for part, given in (("ca", network.tls_ca), ("certificate", network.client_cert)):
        for host, path in given.items():
            name = parse_rule_host(host).name
            files = found.get(name, HostFiles())
            found[name] = replace(files, **{part: expand(path, variables)})
    for host, source in network.client_key.items():
        name = parse_rule_host(host).name
        found[name] = replace(found.get(name, HostFiles()), key=source)
    return found


def _expand_groups(
    given: dict[str, Any], home: str, writable: Sequence[str], sources: Sources
) -> Sequence[str]:
    """Put the hosts of groups in their names' place; return the warnings about them."""
    entries: Sequence[str] = ()
    warnings: Sequence[str] = ()
    named = PACKAGE_REGISTRIES in (*given["allow_domain"], *given["deny_domain"])
    if named and not given["block_net"]:
        from nono_trio.config.registries import read_registries

        registries = read_registries(os.environ, home, writable)
        entries, warnings = registries.entries, registries.warnings
    for name in ("allow_domain", "deny_domain"):
        for group in given[name]:
            source = sources.get(name, {}).get(group, flag_of(name))
            for host in expand_groups([group], entries):
                if host != group:
                    _note_source(sources, name, host, f"{source} {group}")
        given[name] = tuple(expand_groups(given[name], entries))
    return warnings
