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

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.aws_sources import AWS_VARIABLES
from nono_trio.core.credentials.credential import (
    DEFAULT_PARAMETERS,
    DEFAULT_PLACES,
    Kind,
    Place,
)
from nono_trio.core.policy.endpoint_rule import ANY_METHOD, READ_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping

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
