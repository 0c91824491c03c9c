"""Reads one entry of the rules about requests: an endpoint rule, or an MCP rule.

Rules of this file: an MCP rule has an endpoint rule for its URL, so every entry gives one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.policy.endpoint_rule import parse_entry
from nono_trio.core.policy.rule import MCP

if TYPE_CHECKING:
    from nono_trio.core.policy.endpoint_rule import EndpointRule
    from nono_trio.core.policy.mcp_rule import McpRule


def parse_rule_entry(text: str) -> tuple[EndpointRule, McpRule | None]:
    """Parse ACTION METHODS URL [allow_encoded_slash], ACTION URL, or ACTION mcp NAMES URL. Raises
    UsageError."""
    if not text.partition(" ")[2].startswith(MCP):
        return parse_entry(text), None
    from nono_trio.core.policy.mcp_rule import parse_mcp_entry  # late: few sessions have any

    mcp = parse_mcp_entry(text)
    return mcp.endpoint, mcp
