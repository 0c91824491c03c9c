"""The limits of a host: never allowed, public, or of a class that an entry must mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.address import AddressClass, classify
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import is_localhost, is_metadata_name

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.rule import Rule


def may_be_public(host: Host) -> bool:
    """Return True for a public address and for a name, whose addresses are checked later."""
    if host.address is None:
        return not is_localhost(host.name)
    return classify(host.address) is AddressClass.PUBLIC


def protection_of(host: Host) -> str | None:
    """The reason why no entry opens a host; None if an entry may."""
    shown = host.bracketed()
    if host.address is None:
        is_metadata = is_metadata_name(host.name)
        return format_reason(DenialCode.METADATA_NAME, host=shown) if is_metadata else None
    address_class = classify(host.address)
    if not address_class.is_never_allowed:
        return None
    return format_reason(DenialCode.CLOSED_ADDRESS, host=shown, address_class=address_class)


def may_reach(rule: Rule, address_class: AddressClass) -> bool:
    """Return True if an entry opens addresses of this class; a wildcard opens public ones only."""
    if rule.wildcard:
        return False
    if address_class is AddressClass.LOOPBACK:
        return rule.host.address is not None or is_localhost(rule.host.name)
    return address_class is AddressClass.PRIVATE
