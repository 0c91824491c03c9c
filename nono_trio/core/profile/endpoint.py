"""Rules about requests as tables of a profile: `[[network.endpoint]]`, `[[network.mcp]]`.

Rules of this file: a table says what the text of --allow-endpoint or --allow-mcp-tool says, and
becomes that text with its action; the text is what adds up, what the origin of an entry goes by,
and what is parsed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import msgspec

from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Endpoint(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One rule. `host` is HOST[:PORT] or a URL without a path; no `methods` means all of them.

    `query` has the parameters that must be there, with `*` for any text in a value.
    """

    host: str
    methods: tuple[str, ...] = ()
    path: str = "/**"
    query: dict[str, str] = {}
    action: Literal["allow", "deny", "audit"] = "allow"
    allow_encoded_slash: bool = False

    def __str__(self) -> str:
        """Return the rule as EndpointRule.entry has it."""
        from nono_trio.core.policy.endpoint_rule import endpoint_text  # late: few profiles

        text = endpoint_text(
            self.host,
            self.methods,
            self.path,
            self.query,
            allow_encoded_slash=self.allow_encoded_slash,
        )
        return f"{self.action} {text}"

    def check(self) -> None:
        """Raise UsageError for parts that would make another rule of the text."""
        _check_path(self.path)

    def __hash__(self) -> int:
        return hash(str(self))


class Mcp(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One MCP rule. `host` is as in Endpoint. `tools` and `methods` have `*` for any text in a
    name; a rule has one of either at least."""

    host: str
    path: str = "/**"
    tools: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    action: Literal["allow", "deny", "audit"] = "allow"

    def __str__(self) -> str:
        """Return the rule as the entry of an MCP rule has it."""
        from nono_trio.core.policy.mcp_rule import mcp_text  # late: few profiles

        return f"{self.action} mcp {mcp_text(self.host, self.path, self.tools, self.methods)}"

    def check(self) -> None:
        """Raise UsageError for parts that would make another rule of the text, or none."""
        _check_path(self.path)
        if not self.tools and not self.methods:
            raise UsageError("expected tools or methods", hint='write tools = ["search_*"]')

    def __hash__(self) -> int:
        return hash(str(self))


def _check_path(path: str) -> None:
    """Without its slash a path would go on with the name of the host."""
    if not path.startswith("/"):
        raise UsageError(
            f"expected a path that begins with a slash, got {path!a}",
            hint=f'write path = "/{path}"' if path.isprintable() else None,
        )


TABLES: Final[Mapping[str, type[Endpoint] | type[Mcp]]] = {"endpoint": Endpoint, "mcp": Mcp}
"""The kinds of entries that are tables, by Field.kind."""
