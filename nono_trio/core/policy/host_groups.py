"""Groups of hosts that one name allows.

Rules of this file: an entry has the form that --allow-domain takes. Hosts are exact if the
service's names are known, and a suffix only if the provider generates names. `package_registries`
has no entries here: config/registries.py reads them from the machine's own configuration when a
session starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PACKAGE_REGISTRIES: Final = "package_registries"

# The region follows the service's name (bedrock-runtime.us-east-1.amazonaws.com), so no suffix
# covers it. Upstream's two suffixes match no host that answers.
_BEDROCK_REGIONS: Final = (
    "us-east-1", "us-east-2", "us-west-2", "ca-central-1", "sa-east-1",
    "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3",
    "ap-northeast-1", "ap-south-1", "ap-southeast-1", "ap-southeast-2",
)  # fmt: skip

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "llm_apis": (
        "api.anthropic.com", "claude.ai", "console.anthropic.com", "platform.claude.com",
        "api.openai.com", "auth.openai.com", "chatgpt.com",
        "generativelanguage.googleapis.com",
        "api.cerebras.ai", "api.cohere.com", "api.deepseek.com", "api.fireworks.ai",
        "api.groq.com", "api.mistral.ai", "api.perplexity.ai", "api.together.xyz", "api.x.ai",
        "openrouter.ai",
    ),
    "github": (
        "github.com", "api.github.com", "codeload.github.com", "gist.github.com",
        "uploads.github.com", "github-cloud.githubusercontent.com", "media.githubusercontent.com",
        "objects.githubusercontent.com", "raw.githubusercontent.com",
        "release-assets.githubusercontent.com",
    ),
    "gitlab": ("gitlab.com", "cloud.gitlab.com"),
    "sigstore": (
        "fulcio.sigstore.dev", "oauth2.sigstore.dev", "rekor.sigstore.dev",
        "tuf-repo-cdn.sigstore.dev",
    ),
    "documentation": (
        "developer.mozilla.org", "docs.github.com", "docs.python.org", "docs.rs",
        "doc.rust-lang.org", "go.dev", "nodejs.org", "en.cppreference.com",
    ),
    "google_cloud": ("*.googleapis.com",),
    "azure": ("*.openai.azure.com", "*.cognitiveservices.azure.com"),
    "aws_bedrock": tuple(
        f"{service}.{region}.amazonaws.com"
        for region in _BEDROCK_REGIONS
        for service in ("bedrock", "bedrock-runtime")
    ),
    PACKAGE_REGISTRIES: (),
}  # fmt: skip

GROUP_NAMES: Final = tuple(GROUPS)


def expand_groups(entries: Iterable[str], registries: Sequence[str]) -> list[str]:
    """Replace the names of groups by their hosts, each once, in order; other entries stay.

    `registries` are this machine's entries for `package_registries`.
    """
    expanded: dict[str, None] = {}
    for entry in entries:
        hosts = registries if entry == PACKAGE_REGISTRIES else GROUPS.get(entry, (entry,))
        expanded |= dict.fromkeys(hosts)
    return list(expanded)
