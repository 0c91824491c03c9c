"""The trust of a proxy without a cage: the authority's certificates in a file for its clients.

Rules of this file: the file is named in the ready line and goes with the session; clients must be
told to trust it. The key is in no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nono_trio.errors import CageFailed
from nono_trio.proxy.intercept.root_store import forget_files
from nono_trio.session.command_files import CommandFiles
from nono_trio.session.trust.session_trust import open_session_trust

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nono_trio.config.options import SessionOptions
    from nono_trio.session.trust.session_trust import SessionTrust

DIRECTORY = "trust"
_CA = "ca.pem"


@dataclass
class ProxyTrust:
    """The session's trust, and the path of its certificates in PEM."""

    session: SessionTrust
    ca_file: str
    _files: CommandFiles

    def close(self) -> None:
        """Remove the file; the session has ended."""
        self._files.close()


def open_proxy_trust(options: SessionOptions, environment: Mapping[str, str]) -> ProxyTrust:
    """Make the authority and its file; raises UsageError, CageFailed."""
    session = open_session_trust(options.network, environment)
    forget_files()
    try:
        files = CommandFiles(options.audit.state_root, DIRECTORY)
        try:
            return ProxyTrust(session, files.write(_CA, session.authority.pem()), files)
        except BaseException:
            files.close()
            raise
    except OSError as error:
        raise CageFailed(
            f"the file of the session's certificates can't be made: {error}",
            hint="choose another place with --audit-dir",
        ) from error
