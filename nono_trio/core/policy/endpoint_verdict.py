"""The verdict of endpoint rules, and of MCP rules, about one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.http.mcp_message import BadMessage, Message
    from nono_trio.core.policy.endpoint_rule import Action
    from nono_trio.core.policy.request_note import McpCall

DEFAULT_RULE: Final = "endpoint_policy.default"  # upstream's label for a request that fits no rule


class JudgesMessages(Protocol):
    """The MCP rules about one request (mcp_policy.py). Nothing here raises."""

    def are_about(self, *, has_body: bool) -> bool:
        """Return True if the request must have messages."""
        ...

    def judge(self, fields: Sequence[Field], body: bytes) -> tuple[EndpointVerdict, ...]:
        """Return the verdict about each message of a body; that of the denied one alone, if one is
        denied. `fields` are those of the request, with their names in lower case."""
        ...

    def message_verdict(self, message: Message) -> EndpointVerdict:
        """Return the verdict about one message."""
        ...

    def unreadable(self, fault: BadMessage) -> EndpointVerdict:
        """Return the refusal of a body that can't be read as messages."""
        ...

    def upgrade(self) -> EndpointVerdict:
        """Return the refusal of a WebSocket, whose messages would not be judged."""
        ...


class EndpointVerdict(msgspec.Struct, frozen=True):
    """The policy's answer about one request.

    `target` is what is sent upstream, in origin-form; "" if the target has no canonical spelling.
    `path` is what the record has: the same without the values of the query. `action` and `rule` are
    for the record too (None for a host without rules); `rule` is the entry as written, or
    DEFAULT_RULE. `reason` and `hint` are as in Verdict. `status` is that of the refusal.
    """

    allowed: bool
    target: str
    path: str
    action: Action | None = None
    rule: str | None = None
    reason: str | None = None
    hint: str | None = None
    status: int = 403
    observed: bool = False
    """True if no rule allows it: an audit rule, or --observe, lets it through."""
    messages: JudgesMessages | None = None
    """The MCP rules about the path, which must judge the body before anything is recorded."""
    call: McpCall | None = None
    """The MCP message that the verdict is about."""
    message_id: int | str | None = None
    """The id of a refused MCP request, for an answer that its client shows."""

    @property
    def by_default(self) -> bool:
        """True if the request fits no rule."""
        return self.rule == DEFAULT_RULE

    @property
    def is_by_rule(self) -> bool:
        """True if an entry decided, and not the default of a host with rules."""
        return self.rule is not None and self.rule != DEFAULT_RULE

    @property
    def is_observed(self) -> bool:
        """True if --observe let it through, and no rule."""
        return self.observed and not self.is_by_rule
