"""Entries of --allow-domain in both forms: a host (rule.py), or a URL with a path.

Rules of this file: the modules of endpoint rules are imported for a URL only, because few
sessions have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.policy.rule import has_path, parse_allow

if TYPE_CHECKING:
    from nono_trio.core.policy.rule import Rule


def parse_allowed(text: str) -> Rule:
    """Return the host entry of an --allow-domain entry in either form. Raises UsageError."""
    if not has_path(text):
        return parse_allow(text)
    from nono_trio.core.policy.endpoint_rule import parse_url_entry

    return parse_url_entry(text).host_rule
