"""Presets: what a credential of a known service needs, by the credential's name.

Rules of this file:
- It is data. A preset has exact hosts only: below a wildcard of a cloud (`*.example-cloud.com`)
  anybody may have a name, and would be sent the secret. A service whose host differs by customer or
  by configuration has no host here; its user writes `NAME@HOST`.
- No host of a package registry is named: the user's own configuration says which one is meant.
- GitHub is read-only unless the user has rules of his own. The rules leave out POST /graphql:
  queries and mutations are both a POST to one path, and only the body tells which one it is.
- Only places that the service's own clients use. No preset swaps in a body: text there may be
  content that is published.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

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
    Elsewhere,
    Kind,
    Place,
    check_name,
    check_ttl,
    check_variables,
    parse_bound_host,
    parse_headers,
    parse_places,
    parse_source,
)
from nono_trio.core.credentials.login_presets import LOGIN_PRESETS
from nono_trio.core.policy.endpoint_rule import (
    ALLOW_ENDPOINT_FLAG,
    ANY_METHOD,
    READ_ONLY,
    parse_endpoint,
)
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.oauth2 import OAuth2Settings

_HEADER: Final = frozenset({Place.HEADER})


@dataclass(frozen=True, slots=True)
class Preset:
    """The settings of a service. `shown_as` says how its clients send the secret, for the docs.

    `base_url_path` is what its base URL variables have after the host. `methods` are as in an
    endpoint rule, for all paths.
    """

    hosts: tuple[str, ...]
    variables: tuple[str, ...]
    shown_as: str = "Authorization: Bearer"
    places: frozenset[Place] = _HEADER
    base_url_variables: tuple[str, ...] = ()
    base_url_path: str = ""
    methods: str = ANY_METHOD
    kind: Kind = "token"
    source: str | None = None
    parameters: frozenset[str] = DEFAULT_PARAMETERS


def _by_region(form: str, regions: str) -> tuple[str, ...]:
    return tuple(form.format(region) for region in regions.split())


# Regions that are missing here are bound with @HOST.
_BEDROCK_REGIONS: Final = """
    us-east-1 us-east-2 us-west-1 us-west-2 us-gov-east-1 us-gov-west-1 ca-central-1 sa-east-1
    eu-central-1 eu-central-2 eu-north-1 eu-south-1 eu-south-2 eu-west-1 eu-west-2 eu-west-3
    ap-northeast-1 ap-northeast-2 ap-northeast-3 ap-south-1 ap-south-2 ap-southeast-1
    ap-southeast-2 ap-southeast-3 ap-southeast-4 me-central-1 me-south-1 il-central-1 af-south-1
"""
_VERTEX_REGIONS: Final = """
    us-central1 us-east1 us-east4 us-east5 us-south1 us-west1 us-west4 northamerica-northeast1
    southamerica-east1 europe-central2 europe-north1 europe-southwest1 europe-west1 europe-west2
    europe-west3 europe-west4 europe-west6 europe-west8 europe-west9 asia-east1 asia-east2
    asia-northeast1 asia-northeast3 asia-south1 asia-southeast1 asia-southeast2
    australia-southeast1 me-central1 me-central2 me-west1
"""

PRESETS: Final[Mapping[str, Preset]] = {
    "openai": Preset(
        ("api.openai.com",), ("OPENAI_API_KEY",),
        base_url_variables=("OPENAI_BASE_URL",), base_url_path="/v1",
    ),
    "anthropic": Preset(
        ("api.anthropic.com",), ("ANTHROPIC_API_KEY",), "x-api-key or Authorization: Bearer",
        base_url_variables=("ANTHROPIC_BASE_URL",),
    ),
    "anthropic-token": Preset(  # another value than the key, and a client that finds both is lost
        ("api.anthropic.com",), ("ANTHROPIC_AUTH_TOKEN",),
        base_url_variables=("ANTHROPIC_BASE_URL",),
    ),
    "gemini": Preset(
        ("generativelanguage.googleapis.com",), ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "x-goog-api-key or ?key=", _HEADER | {Place.QUERY},
        base_url_variables=("GOOGLE_GEMINI_BASE_URL",), parameters=frozenset({"key"}),
    ),
    "vertex": Preset(
        ("aiplatform.googleapis.com", *_by_region("{}-aiplatform.googleapis.com", _VERTEX_REGIONS)),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN",), source="cmd://gcloud auth print-access-token",
    ),
    "azure-openai": Preset(
        (), ("AZURE_OPENAI_API_KEY",), "api-key",
        base_url_variables=("AZURE_OPENAI_ENDPOINT",),
    ),
    "bedrock": Preset(
        _by_region("bedrock-runtime.{}.amazonaws.com", _BEDROCK_REGIONS),
        ("AWS_BEARER_TOKEN_BEDROCK",),
        base_url_variables=("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "ANTHROPIC_BEDROCK_BASE_URL"),
    ),
    "aws": Preset(
        (), AWS_VARIABLES, "AWS Signature Version 4", kind="sigv4",
        base_url_variables=("AWS_ENDPOINT_URL",),
    ),
    "mistral": Preset(("api.mistral.ai",), ("MISTRAL_API_KEY",)),
    "openrouter": Preset(("openrouter.ai",), ("OPENROUTER_API_KEY",), base_url_path="/api/v1"),
    "huggingface": Preset(  # its CDN gets signed URLs and no token
        ("huggingface.co", "router.huggingface.co"), ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        places=DEFAULT_PLACES, base_url_variables=("HF_ENDPOINT",),
    ),
    "github": Preset(
        ("api.github.com", "uploads.github.com", "github.com"), ("GH_TOKEN", "GITHUB_TOKEN"),
        "Authorization: Bearer or token; git: Basic", DEFAULT_PLACES,
        methods=READ_ONLY,
    ),
    "github-enterprise": Preset(
        (), ("GH_ENTERPRISE_TOKEN", "GITHUB_ENTERPRISE_TOKEN"),
        "Authorization: Bearer or token; git: Basic", DEFAULT_PLACES,
        methods=READ_ONLY,
    ),
    "gitlab": Preset(
        ("gitlab.com",), ("GITLAB_TOKEN",),
        "PRIVATE-TOKEN or Authorization: Bearer; git: Basic", DEFAULT_PLACES,
    ),
    "copilot": Preset(
        (
            "api.githubcopilot.com", "api.individual.githubcopilot.com",
            "api.business.githubcopilot.com", "api.enterprise.githubcopilot.com",
        ),
        ("COPILOT_GITHUB_TOKEN",),
    ),
    "npm": Preset((), ("NPM_TOKEN",)),
    "pypi": Preset(
        (), ("UV_PUBLISH_TOKEN", "TWINE_PASSWORD"), "Basic __token__",
        frozenset({Place.BASIC}),
    ),
    "nvidia": Preset(("integrate.api.nvidia.com",), ("NVIDIA_API_KEY",)),
    "deepinfra": Preset(("api.deepinfra.com",), ("DEEPINFRA_API_KEY",)),
    "groq": Preset(("api.groq.com",), ("GROQ_API_KEY",)),
    "together": Preset(("api.together.xyz", "api.together.ai"), ("TOGETHER_API_KEY",)),
    "fireworks": Preset(("api.fireworks.ai",), ("FIREWORKS_API_KEY",)),
    "deepseek": Preset(("api.deepseek.com",), ("DEEPSEEK_API_KEY",)),
    "xai": Preset(("api.x.ai",), ("XAI_API_KEY",)),
    "cohere": Preset(("api.cohere.com", "api.cohere.ai"), ("COHERE_API_KEY", "CO_API_KEY")),
}  # fmt: skip


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
    `oauth2`, what has a source is the client's secret, and a `login` has none. AWS keys have one
    source for all, or one for each part. Raises UsageError for an invalid setting, and for one that
    neither the user nor the preset has.
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
    if oauth2 is not None:
        source = _of_client(name, source, oauth2)
        kind = "oauth2"
    elif kind == "oauth2":
        raise UsageError(
            f'credential {name}: expected [credentials.{name}.oauth2] beside kind = "oauth2"',
            hint="it has token_url, client_id and client_secret",
        )
    kind = kind or ("token" if preset is None else preset.kind)
    aws = None
    if secret_access_key is not None or session_token is not None:
        _check_signs(name, kind)
    if login is not None:
        source = _of_login(name, source, oauth2)
        kind = "login"
    elif kind == "sigv4":
        names = names or AWS_VARIABLES
        check_aws_variables(name, names)
        source, aws = find_sources(name, source, secret_access_key, session_token, environment)
        for one in (source, *(() if aws is None else aws.all)):
            parse_source(name, one)
    else:
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
