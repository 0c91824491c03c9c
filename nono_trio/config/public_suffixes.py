"""Wildcards over suffixes below which anybody may register a name: `*.com`, `*.github.io`.

Such an entry looks narrow, but any attacker can register a name that it allows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from nono_trio.core.policy.allowed_host import parse_allowed
from nono_trio.core.policy.rule import ALLOW_FLAG

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_PUNYCODE: Final = "xn--"  # the list has such names in their own script


def suffix_warnings(entries: Sequence[str], endpoints: Sequence[str] = ()) -> Iterator[str]:
    """Say which allow entries, and which endpoint rules, are wildcards over a public suffix; raises
    UsageError for an entry that can't be meant."""
    rules = [(f"{ALLOW_FLAG} {one}", parse_allowed(one)) for one in entries if "*." in one]
    opening = [one for one in endpoints if "*." in one and not one.startswith("deny ")]
    if opening:
        from nono_trio.core.policy.rule_entry import parse_rule_entry  # late: few sessions have any

        rules += [(one, parse_rule_entry(one)[0].host_rule) for one in opening]
    for shown, rule in rules:
        if rule.wildcard and is_public(rule.host.name):
            yield (
                f"{shown} covers names that anybody can register:"
                f" {rule.host.name} is a public suffix (name the hosts that are meant)"
            )


def is_public(suffix: str) -> bool:
    """Return True if anybody may register a name below `suffix`."""
    import publicsuffixlist  # late, with its table of 10,000 suffixes: few entries are wildcards

    if not _may_be_listed(suffix, Path(publicsuffixlist.PSLFILE).read_bytes()):
        return False
    return publicsuffixlist.PublicSuffixList(accept_unknown=False).publicsuffix(suffix) == suffix


def _may_be_listed(suffix: str, listed: bytes) -> bool:
    """Return whether the whole list, which takes 30 ms to read, can have a match."""
    parent = suffix.partition(".")[2]
    lines = [f"\n{suffix}\n", *([f"\n*.{parent}\n"] if parent else [f"\n*.{suffix}\n"])]
    return _PUNYCODE in suffix or any(line.encode() in listed for line in lines)
