"""Groups of hosts that can be allowed by one name.

Rules of this file: an entry is what --allow-domain takes; hosts are exact wherever the service's
own names are known, a suffix only where the provider makes up names. `package_registries` has no
entries here: which registries a machine uses stands in that machine's own configuration, and is
read from it when a session starts (config/registries.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PACKAGE_REGISTRIES: Final = "package_registries"

# The region stands behind the service's name (bedrock-runtime.us-east-1.amazonaws.com), where no
# suffix reaches: upstream's two suffixes match no host that answers.
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

    `registries` are the entries that `package_registries` stands for on this machine.
    """
    expanded: dict[str, None] = {}
    for entry in entries:
        hosts = registries if entry == PACKAGE_REGISTRIES else GROUPS.get(entry, (entry,))
        expanded |= dict.fromkeys(hosts)
    return list(expanded)
