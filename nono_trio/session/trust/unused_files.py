"""Says which of the given files of certificates have no effect.

Apart from the rest of this folder, because each run asks it and most intercept nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nono_trio.config.options import NetworkOptions


def unused_files(network: NetworkOptions, *, intercepts: bool) -> list[str]:
    """Return a warning if files were given and no host is intercepted."""
    given = {
        "--tls-ca-cert": network.tls_ca_cert,
        "--tls-ca-key": network.tls_ca_key,
        "--upstream-ca": network.upstream_ca,
        "network.tls_ca, client_cert and client_key": network.host_files,
    }
    named = [name for name, value in given.items() if value]
    if intercepts or not named:
        return []
    return [f"no host is intercepted, so nothing uses {', '.join(named)}"]
