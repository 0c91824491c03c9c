"""The arguments of the library: what a caller names, as paths, keys and times, or a UsageError.

Nothing here is public.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.errors import LogUnreadable, UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from nono_trio.core.proof.public_keys import PublicKeys


def root_at(audit_dir: str | Path | None) -> Path:
    """Return the directory of the sessions; raises UsageError for a URL."""
    given = None if audit_dir is None else str(audit_dir)
    if given is not None and "://" in given and not os.path.exists(given):
        raise UsageError(
            f"audit_dir: expected a directory, got the URL {given}",
            hint="`verify` and `verify_all` take URLs; the commands take them in more places",
        )
    return store.audit_root(store.state_root(given, os.environ))


def path_of(session: str | Path, audit_dir: str | Path | None) -> Path:
    """Return the path that a session names; raises LogUnreadable and UsageError."""
    if isinstance(session, Path):
        if not session.exists():
            raise LogUnreadable(
                f"expected a session, got {session}, which is not there",
                hint="see `nono-trio audit list`",
            )
        return session
    return store.find_session(root_at(audit_dir), session)


def directory_of(session: str | Path, audit_dir: str | Path | None) -> Path:
    """As `path_of`; raises UsageError for a file."""
    found = path_of(session, audit_dir)
    if not found.is_dir():
        raise UsageError(
            f"expected a session, got the file {found}", hint="give the session's id or directory"
        )
    return found


def keys_in(public_keys: bytes | None) -> PublicKeys | None:
    """As `required_keys`; None for none."""
    return None if public_keys is None else required_keys(public_keys)


def required_keys(public_keys: bytes) -> PublicKeys:
    """Return the keys that `nono-trio keys export` printed; raises UsageError."""
    from nono_trio.core.proof.public_keys import parse_public_keys

    try:
        return parse_public_keys(public_keys)
    except ValueError as error:
        raise UsageError(
            f"public_keys: {error}", hint="nono-trio keys export > audit-key.pem makes them"
        ) from error


def with_zone(name: str, time: datetime | None) -> datetime | None:
    """Return the time; raises UsageError, which names the argument, for one without a zone."""
    if time is not None and time.tzinfo is None:
        raise UsageError(
            f"{name}: expected a time with a zone, got {time}",
            hint="for example datetime.now(UTC) - timedelta(days=7)",
        )
    return time
