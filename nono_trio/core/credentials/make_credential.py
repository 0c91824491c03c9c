"""A credential from what its user wrote, completed by the preset of its name."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from nono_trio.core.credentials.aws_sources import (
    AWS_VARIABLES,
    check_aws_variables,
    find_sources,
)
from nono_trio.core.credentials.credential import (
    CREDENTIAL_FLAG,
    DEFAULT_HEADERS,
    DEFAULT_PARAMETERS,
    DEFAULT_PLACES,
    MAX_HOSTS,
    Credential,
    check_name,
    check_ttl,
    check_variables,
    parse_bound_host,
    parse_headers,
    parse_places,
    parse_source,
)
from nono_trio.core.credentials.login_presets import LOGIN_PRESETS
from nono_trio.core.credentials.presets import PRESETS
from nono_trio.core.policy.endpoint_rule import ALLOW_ENDPOINT_FLAG, ANY_METHOD, parse_endpoint
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from nono_trio.core.credentials.credential import Elsewhere, Kind
    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.oauth2 import OAuth2Settings
    from nono_trio.core.credentials.presets import Preset


def make_credential(
    name: str,
    environment: Mapping[str, str],
    *,
    source: str | None = None,
    hosts: Sequence[str] = (),
    places: Sequence[str] = (),
    variables: Sequence[str] = (),
    files: Sequence[str] = (),
    optional: bool = False,
    elsewhere: Elsewhere = "deny",
    kind: Kind | None = None,
    endpoints: Sequence[str] = (),
    ttl: int | None = None,
    headers: Sequence[str] = (),
    parameters: Sequence[str] = (),
    oauth2: OAuth2Settings | None = None,
    login: LoginSettings | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    route: bool = False,
) -> Credential:
    """Return the credential `name` with what its user wrote, and the rest from its preset.

    Without a source it is read from the first of its variables that `environment` has. With
    `oauth2`, the source is that of the client's secret. A `login` takes no source. AWS keys have
    one source for all, or one for each part. Raises UsageError for an invalid setting, and for one
    that neither the user nor the preset has.
    """
    check_name(name)
    preset, written = PRESETS.get(name), source
    agent = LOGIN_PRESETS.get(name) if login is None else None
    if agent is not None:
        login = agent.settings(name)
        endpoints = endpoints or (() if hosts else agent.endpoints)
        hosts = hosts or agent.hosts
    names = tuple(variables) or (preset.variables if preset else ())
    check_variables(name, names)
    check_ttl(name, ttl)
    kind = _kind(name, kind, preset, oauth2)
    if secret_access_key is not None or session_token is not None:
        _check_signs(name, kind)
    aws = None
    if login is not None:
        kind, source = "login", _of_login(name, source, oauth2)
    elif kind == "sigv4":
        names = names or AWS_VARIABLES
        check_aws_variables(name, names)
        source, aws = find_sources(name, source, secret_access_key, session_token, environment)
        for one in (source, *(() if aws is None else aws.all)):
            parse_source(name, one)
    else:
        if oauth2 is not None:
            source = _of_client(name, source, oauth2)
        source = source or (preset and preset.source) or _from_variables(name, names, environment)
        parse_source(name, source)
    credential = Credential(
        name,
        source,
        tuple(parse_bound_host(name, one) for one in _hosts(name, written, preset, hosts)),
        parse_places(name, places) if places else DEFAULT_PLACES,
        names,
        tuple(files),
        optional,
        elsewhere,
        kind,
        endpoints=_endpoints(name, endpoints),
        ttl=ttl,
        headers=parse_headers(name, headers) or DEFAULT_HEADERS,
        parameters=frozenset(map(str.lower, parameters))
        or (DEFAULT_PARAMETERS if preset is None else preset.parameters),
        oauth2=oauth2,
        login=login,
        aws=aws,
        route=route,
    )
    if agent is not None and not places:
        return replace(credential, places=agent.places)
    return credential if preset is None else _with_preset(credential, preset, places)


def _kind(
    name: str, written: Kind | None, preset: Preset | None, oauth2: OAuth2Settings | None
) -> Kind:
    if oauth2 is not None:
        return "oauth2"
    if written == "oauth2":
        raise UsageError(
            f'credential {name}: expected [credentials.{name}.oauth2] beside kind = "oauth2"',
            hint="it has token_url, client_id and client_secret",
        )
    return written or ("token" if preset is None else preset.kind)


def _with_preset(credential: Credential, preset: Preset, places: Sequence[str]) -> Credential:
    """Return a credential with the settings of its preset where its user wrote none."""
    return replace(
        credential,
        places=credential.places if places else preset.places,
        base_url_variables=preset.base_url_variables,
        base_url_path=preset.base_url_path,
        endpoints=credential.endpoints or _preset_endpoints(credential, preset),
    )


def _preset_endpoints(credential: Credential, preset: Preset) -> tuple[str, ...]:
    """Return the preset's rules for the hosts that the credential has; none if all is allowed."""
    if preset.methods == ANY_METHOD:
        return ()
    return tuple(f"{preset.methods} {one.origin}/**" for one in credential.hosts)


def _hosts(
    name: str, source: str | None, preset: Preset | None, hosts: Sequence[str]
) -> Collection[str]:
    """Return the hosts without repetition; what the user wrote takes the place of the preset's."""
    found = dict.fromkeys(hosts or (preset.hosts if preset else ()))
    if not found:
        entry = f"{name}@HOST"
        if source is not None:  # a command line may have anything in it
            entry = f"{name}={'SOURCE' if source.startswith('cmd:') else source}@HOST"
        raise UsageError(
            f"credential {name}: expected a host to which its secret may go",
            hint=f"write {CREDENTIAL_FLAG} {shlex.quote(entry)}, or hosts = [...] in"
            f" [credentials.{name}]",
        )
    if len(found) > MAX_HOSTS:
        raise UsageError(
            f"credential {name}: expected at most {MAX_HOSTS} hosts, got {len(found)}",
            hint="bind it to a suffix of your own, as in *.internal.example.com",
        )
    return found


def _of_client(name: str, source: str | None, oauth2: OAuth2Settings) -> str:
    if source is not None:
        raise UsageError(
            f"credential {name}: expected no source beside its token URL",
            hint=f"client_secret in [credentials.{name}.oauth2] has the source",
        )
    return oauth2.client_secret


def _check_signs(name: str, kind: Kind) -> None:
    if kind != "sigv4":
        raise UsageError(
            f"credential {name}: secret_access_key and session_token are of AWS keys",
            hint=f'write kind = "sigv4" in [credentials.{name}]',
        )


def _of_login(name: str, source: str | None, oauth2: OAuth2Settings | None) -> str:
    if source is not None or oauth2 is not None:
        raise UsageError(
            f"credential {name}: expected no source beside a login, whose tokens come when the"
            " command signs in",
            hint="make two credentials of it, one of them with the source",
        )
    return ""


def _from_variables(name: str, variables: Sequence[str], environment: Mapping[str, str]) -> str:
    if not variables:
        raise UsageError(
            f"credential {name}: expected a source of its secret, and it has no preset",
            hint=f"as in {CREDENTIAL_FLAG} {name}=env://VARIABLE@HOST; presets are"
            f" {', '.join((*PRESETS, *LOGIN_PRESETS))}",
        )
    found = next((one for one in variables if environment.get(one)), variables[0])
    return f"env://{found}"


def _endpoints(name: str, entries: Sequence[str]) -> tuple[str, ...]:
    """Check the user's endpoint rules for the bound hosts."""
    for one in entries:
        try:
            parse_endpoint(ALLOW_ENDPOINT_FLAG, one, "allow")
        except UsageError as error:
            reason = error.message.removeprefix(f"{ALLOW_ENDPOINT_FLAG} ")
            raise UsageError(f"credential {name}: {reason}", hint=error.hint) from None
    return tuple(entries)
