"""The arguments of the library: what a caller names, as paths, keys and times, or a UsageError.

Nothing here is public.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

from nono_trio.audit import store
from nono_trio.errors import LogUnreadable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from nono_trio.core.proof.public_keys import PublicKeys


def root_at(audit_dir: str | Path | None) -> Path:
    """Return the directory of the sessions; raises UsageError for a URL."""
    require_directory(audit_dir)
    given = None if audit_dir is None else str(audit_dir)
    if given is not None and "://" in given and not os.path.exists(given):
        raise UsageError(
            f"audit_dir: expected a directory, got the URL {given}",
            hint="`verify` and `verify_all` take URLs; the commands take them in more places",
        )
    return store.audit_root(store.state_root(given, os.environ))


def path_of(session: str | Path, audit_dir: str | Path | None) -> Path:
    """Return the path that a session names; raises LogUnreadable and UsageError."""
    require_type("session", session, str, Path)
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

    require_type("public_keys", public_keys, bytes)
    try:
        return parse_public_keys(public_keys)
    except ValueError as error:
        raise UsageError(
            f"public_keys: {error}", hint="`nono-trio keys export > audit-key.pem` makes them"
        ) from error


def with_zone(name: str, time: datetime | None) -> datetime | None:
    """Return the time; raises UsageError, which names the argument, for one without a zone."""
    if time is not None:
        from datetime import datetime  # late: few name a time

        require_type(name, time, datetime, None)
    if time is not None and time.tzinfo is None:
        raise UsageError(
            f"{name}: expected a time with a zone, got {time}",
            hint="for example datetime.now(UTC) - timedelta(days=7)",
        )
    return time


def require_directory(audit_dir: object) -> None:
    """Raise UsageError for what can be no state directory."""
    require_type("audit_dir", audit_dir, str, Path, None)
    if "\0" in str(audit_dir):
        raise UsageError(f"audit_dir: expected a directory, got {audit_dir!a}")


def require_count(name: str, value: object) -> None:
    """Raise UsageError for what is neither None nor a number from 1 on."""
    require_type(name, value, int, None)
    if isinstance(value, int) and value < 1:
        raise UsageError(f"{name}: expected 1 or more, got {value}")


def require_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Raise UsageError for a value that is not known."""
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(known)}, got {value!a}")


def require_type(name: str, value: object, *types: type | None) -> None:
    """Raise UsageError for a value of none of these types; True and False are no numbers."""
    known = tuple(NoneType if one is None else one for one in types)
    if not isinstance(value, known) or isinstance(value, bool):
        shown = " or ".join("None" if one is None else one.__name__ for one in types)
        raise UsageError(f"{name}: expected {shown}, got {value!a}")


def require_texts(name: str, values: object) -> None:
    """Raise UsageError for what is no sequence of texts: a text alone would be its letters, and a
    generator can be read only once. Texts that can't be a program's argument are refused too."""
    if (
        isinstance(values, str)
        or not isinstance(values, Collection)
        or not all(isinstance(one, str) for one in values)
    ):
        raise UsageError(
            f"{name}: expected a sequence of texts, got {values!a}",
            hint=f"for example {name}=[...]",
        )
    for one in values:
        try:
            one.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise UsageError(f"{name}: expected texts of Unicode, got {one!a}") from error
