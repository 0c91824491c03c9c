"""An endpoint rule as a table of a profile: `[[network.endpoint]]`.

Rules of this file: a table says what the text of --allow-endpoint says, and becomes that text with
its action; the text is what adds up, what the origin of an entry goes by, and what is parsed.
"""

from __future__ import annotations

from typing import Literal

import msgspec


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

    def __hash__(self) -> int:
        return hash(str(self))
