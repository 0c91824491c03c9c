"""The denial of a resolved address of an allowed host: its reason, and a hint that opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.core.net.address import AddressClass
from nono_trio.core.policy.policy_verdict import Verdict
from nono_trio.core.policy.reasons import DenialCode, format_reason
from nono_trio.core.policy.rule import ALLOW_FLAG, RESOLVE_FLAG

if TYPE_CHECKING:
    from nono_trio.core.net.host import Host
    from nono_trio.core.policy.reasons import Value
    from nono_trio.core.policy.resolved_address import ResolvedAddress


def closed(host: Host, resolved: ResolvedAddress, hint: str | None) -> Verdict:
    """The denial of an address whose class no entry opens; `hint` says what would."""
    reason = resolved_reason(
        DenialCode.RESOLVED_CLOSED, host, resolved, address_class=resolved.address_class
    )
    return Verdict(False, None, reason, hint)


def resolved_reason(
    code: DenialCode, host: Host, resolved: ResolvedAddress, **values: Value
) -> str:
    """The reason of a denial, which names the host and the address."""
    return format_reason(code, host=host.bracketed(), address=resolved.host.name, **values)


def hint_for(resolved: ResolvedAddress, shown: str) -> str:
    """The advice that opens the address; `shown` is the host with its port."""
    if resolved.address_class is AddressClass.PRIVATE:
        return f"name it exactly with {ALLOW_FLAG} {shown}"
    return f"pin it with {RESOLVE_FLAG} {shown}:{resolved.host.bracketed()}"
