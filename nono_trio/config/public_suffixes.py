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


def suffix_warnings(entries: Sequence[str]) -> Iterator[str]:
    """Say which allow entries are wildcards over a public suffix; raises UsageError for an entry
    that can't be meant."""
    for entry in entries:
        if "*." not in entry:
            continue
        rule = parse_allowed(entry)
        if rule.wildcard and _is_public(rule.host.name):
            yield (
                f"{ALLOW_FLAG} {entry} covers names that anybody can register:"
                f" {rule.host.name} is a public suffix (name the hosts that are meant)"
            )


def _is_public(suffix: str) -> bool:
    import publicsuffixlist  # late, with its table of 10,000 suffixes: few entries are wildcards

    if not _may_be_listed(suffix, Path(publicsuffixlist.PSLFILE).read_bytes()):
        return False
    return publicsuffixlist.PublicSuffixList(accept_unknown=False).publicsuffix(suffix) == suffix


def _may_be_listed(suffix: str, listed: bytes) -> bool:
    """Return whether the whole list, which takes 30 ms to read, can have a match."""
    parent = suffix.partition(".")[2]
    lines = [f"\n{suffix}\n", *([f"\n*.{parent}\n"] if parent else [f"\n*.{suffix}\n"])]
    return _PUNYCODE in suffix or any(line.encode() in listed for line in lines)
