"""The store: session directories on disk, finding one by name, and whether its supervisor is alive.

Rules of this file: directories are made exclusively with mode 0700, files are 0600. session.json is
only ever replaced whole (temporary file, fsync, rename, fsync of the directory), so a reader
without a lock never sees half of one. A session without a readable session.json is still listed:
the remains of a crash must stay visible.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nono_trio.audit.newest import newest_first
from nono_trio.audit.stored_session import StoredSession
from nono_trio.core.late import late_pattern
from nono_trio.core.log.events import MALFORMED
from nono_trio.core.log.session_json import (
    BUNDLE_FILENAME,
    SessionMetadata,
    SessionSummary,
    decode_metadata,
    decode_summary,
    encode_metadata,
)
from nono_trio.errors import LogUnreadable, UsageError, path_hint, unreadable
from nono_trio.posix.account import home_of
from nono_trio.posix.disk_sync import sync_directory
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.process_info import boot_id, holds_lock, process_start_ticks
from nono_trio.posix.safe_open import open_temporary, read_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nono_trio.core.log.policy_json import SupervisorProcess

LOG = "audit-events.ndjson"
CHECKPOINTS = "checkpoints.ndjson"
FLOWS = "flows.ndjson"
PROCESSES = "processes.ndjson"
SESSION = "session.json"
POLICY = "policy.json"
SUMMARY = "summary.json"
BUNDLE = BUNDLE_FILENAME
# Beside a session of another machine, and in an archive (verify/carried_ledger.py).
LEDGER_LINE = "ledger-line.ndjson"
LEDGER_PROOF = "ledger-line.tlog-proof"
LEDGER_CHECKPOINT = "ledger-checkpoint.ndjson"
PUBLIC_KEYS = "public-keys.pem"
VERIFIER_KEYS = "verifier-keys.txt"
CARRIED = (LEDGER_LINE, LEDGER_PROOF, LEDGER_CHECKPOINT, PUBLIC_KEYS, VERIFIER_KEYS)
# The suffix of the file for the bytes that a recovery cut off.
TORN = ".torn"
TORN_FILES = tuple(name + TORN for name in (LOG, CHECKPOINTS, FLOWS, PROCESSES))
LATEST = "latest"
# The prefix of a directory whose session has not started yet.
STARTING = ".starting-"
# The prefix of a directory in which an archive is unpacked before its session is imported.
IMPORTING = ".importing-"
# The prefix of a directory whose session is being removed.
REMOVING = ".removing-"

# Most of it are network events: 4096 of them, each of a few kilobytes at most
# (core/log/text_limits.py).
MAX_SESSION_BYTES = 64 * 1024 * 1024


def new_name(name: str) -> str:
    """Return the temporary name of the file `name` before its rename; the file also reserves
    space."""
    return f".{name}.new"


NEW_SESSION = new_name(SESSION)

SEALED_STATUS = ("sealed", "recovered")

STATE_VARIABLE = "NONO_TRIO_STATE_DIR"

_SESSION_ID = late_pattern(r"[A-Za-z0-9_-]{1,64}")


def state_root(override: str | None, environ: Mapping[str, str]) -> Path:
    """Return the state directory: `override`, NONO_TRIO_STATE_DIR, or the default.

    Raises UsageError for a URL: nothing is written to one, and a directory `s3:` holds no archive.
    """
    chosen = override or environ.get(STATE_VARIABLE)
    if chosen and "://" in chosen and not os.path.exists(chosen):
        raise UsageError(
            f"--audit-dir: expected a directory, got the URL {chosen}",
            hint="`nono-trio audit` verify, search, hosts and export read URLs",
        )
    return Path(chosen).absolute() if chosen else usual_state_root(environ)


def usual_state_root(environ: Mapping[str, str]) -> Path:
    """$XDG_STATE_HOME/nono-trio, or below ~/.local.

    A relative XDG_STATE_HOME is ignored, as its specification asks.
    """
    xdg = environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg, "nono-trio")
    return Path(home_of(environ), ".local", "state", "nono-trio")


def audit_root(state_root: Path) -> Path:
    """Return the directory of the session directories and the ledger."""
    return state_root / "audit"


def new_session_id() -> str:
    """Return a new id: 16 lower-case hex digits from 8 random bytes."""
    return os.urandom(8).hex()


def is_session_id(text: str) -> bool:
    """Return True if `text` has the form of a session id (the set that upstream accepts)."""
    return _SESSION_ID.fullmatch(text) is not None


def create_session_directory(audit_root: Path, session_id: str, *, hidden: bool = False) -> Path:
    """Make the session's directory; raises FileExistsError if it exists, OSError otherwise.

    After an error there is no new directory. A `hidden` one is no session until it is published.
    """
    if not is_session_id(session_id):
        raise UsageError(f"expected 1-64 of A-Z a-z 0-9 _ - as session id, got {session_id!r}")
    directory = audit_root / (STARTING + session_id if hidden else session_id)
    with as_owner_of_path(directory):
        for parent in reversed([audit_root, *audit_root.parents]):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700)
        try:
            if not hidden:
                sync_directory(audit_root)
        except BaseException:
            discard_session_directory(directory)
            raise
    return directory


def publish_session_directory(hidden: Path) -> Path:
    """Give a hidden directory its session's name, durably: now it is a session.

    A start that is killed leaves either no session or a complete one. Raises OSError, and
    FileExistsError if there is a session of that name.
    """
    directory = hidden.with_name(hidden.name.removeprefix(STARTING))
    if os.path.lexists(directory):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(directory))
    with as_owner_of_path(directory):
        hidden.rename(directory)
        sync_directory(directory.parent)
    return directory


def discard_session_directory(directory: Path) -> None:
    """Remove a session that could not be started, as far as possible."""
    with suppress(OSError), as_owner_of_path(directory):
        for entry in os.scandir(directory):
            os.unlink(entry)
        directory.rmdir()


def write_session_json(directory: Path, metadata: SessionMetadata) -> None:
    """Replace session.json as a whole and make it durable; blocks, raises OSError."""
    replace_file(directory, SESSION, encode_metadata(metadata))


def replace_file(directory: Path, name: str, data: bytes) -> None:
    """Replace a small file as a whole and make it durable; blocks, raises OSError.

    After an error the old file is unchanged. The caller must hold the session's log.
    """
    temporary = directory / new_name(name)
    with as_owner_of_path(directory):
        try:
            # not truncated: it may hold reserved space
            with os.fdopen(open_temporary(temporary), "wb") as file:
                file.write(data)
                file.flush()
                file.truncate(len(data))
                os.fsync(file.fileno())
            temporary.rename(directory / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(directory)


def read_metadata(directory: Path) -> SessionMetadata:
    """Return the whole session.json; raises LogUnreadable if it is missing or invalid."""
    try:
        return decode_metadata(_session_text(directory))
    except OSError as error:
        raise unreadable(directory / SESSION, error) from error
    except MALFORMED as error:
        raise LogUnreadable(f"{directory / SESSION} is no session file: {error}") from error


def read_summary(directory: Path) -> SessionSummary | None:
    """Return session.json without its network events; None if it is missing or unreadable."""
    try:
        return decode_summary(_session_text(directory))
    except (OSError, *MALFORMED):
        return None


def _session_text(directory: Path) -> bytes:
    return read_whole(directory / SESSION, MAX_SESSION_BYTES)


def sessions(audit_root: Path) -> list[StoredSession]:
    """Return every session under `audit_root`, newest first; [] if there is no such directory."""
    found = [
        StoredSession(directory=directory, summary=read_summary(directory))
        for directory in _directories(audit_root)
    ]
    return sorted(found, key=lambda session: session.started, reverse=True)


def place_name(directory: Path) -> str:
    """Return the name that a directory has in the one around it; resolves a symlink, `.` and `..`.

    `Path.resolve` looks at each directory above too: for a list of sessions that is a tenth of all.
    """
    if directory.name in ("", "..") or os.path.islink(directory):
        return directory.resolve().name
    return directory.name


def session_names(audit_root: Path) -> list[str]:
    """Return the ids of every session under `audit_root`, by name; none of them is opened."""
    return sorted(directory.name for directory in _directories(audit_root))


def find_session(audit_root: Path, text: str) -> Path:
    """Return the session directory (or log file) that `text` names.

    Tried in this order: a path (with a slash), `latest`, an id, a name (the newest of that name,
    see newest.py), an unambiguous id prefix, and last a path without a slash. Raises LogUnreadable
    if nothing matches and UsageError if a prefix matches several.
    """
    try:
        return _find(audit_root, text)
    except OSError as error:  # no permission, a name too long for the file system
        place = text if "/" in text else audit_root
        raise LogUnreadable(
            f"{text} can't be looked up: {error.strerror or error}", hint=path_hint(place, error)
        ) from error


def _find(audit_root: Path, text: str) -> Path:
    if "/" in text:
        return _existing_path(text)
    if text != LATEST and is_session_id(text) and (audit_root / text).is_dir():
        return audit_root / text
    known = sessions(audit_root)
    meant = known if text == LATEST else [session for session in known if session.name == text]
    if meant:
        return newest_first(audit_root, meant, _is_running, imported_last=True)[0].directory
    return _by_prefix(known, text) or _existing_path(text, audit_root)


def _is_running(session: StoredSession) -> bool:
    summary = session.summary
    return summary is not None and not is_sealed(summary) and is_alive(session.directory, summary)


def is_sealed(metadata: SessionMetadata | SessionSummary) -> bool:
    """Return True if session.json says that the session was sealed; in upstream's, its integrity
    does."""
    status = metadata.facts.status
    if isinstance(status, str):
        return status in SEALED_STATUS
    return metadata.audit_integrity is not None


def is_alive(directory: Path, metadata: SessionMetadata | SessionSummary) -> bool:
    """Return True if the supervisor that wrote the session.json of `directory` still runs.

    Its pid, its start time and the boot must be the same, because pids are used again. It must also
    hold the lock on the session's log, because another program may have written these facts.
    """
    facts = metadata.facts
    if not isinstance(facts.supervisor_pid, int):
        return False
    return _runs(directory, facts.supervisor_pid, facts.supervisor_start_ticks, facts.boot_id)


def has_supervisor(summary: SessionSummary) -> bool:
    """As `is_alive`, for a session without a log that could be locked."""
    facts = summary.facts
    pid = facts.supervisor_pid
    return isinstance(pid, int) and _exists(pid, facts.supervisor_start_ticks, facts.boot_id)


def is_supervised(directory: Path, process: SupervisorProcess) -> bool:
    """Return True if this process still runs and holds the session's log; as `is_alive`."""
    return _runs(directory, process.pid, process.start_ticks, process.boot_id)


def _runs(directory: Path, pid: int, start_ticks: object, boot: object) -> bool:
    # The process first: most sessions have none any more.
    return _exists(pid, start_ticks, boot) and holds_lock(pid, directory / LOG, unknown=True)


def _exists(pid: int, start_ticks: object, boot: object) -> bool:
    ticks = process_start_ticks(pid)
    return ticks is not None and ticks == start_ticks and boot == boot_id()


def _directories(audit_root: Path) -> list[Path]:
    try:
        with os.scandir(audit_root) as entries:
            return [audit_root / entry.name for entry in entries if _is_session_directory(entry)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(audit_root, error) from error


def _is_session_directory(entry: os.DirEntry[str]) -> bool:
    return is_session_id(entry.name) and entry.is_dir(follow_symlinks=False)


def _by_prefix(known: list[StoredSession], text: str) -> Path | None:
    fitting = [session for session in known if text and session.session_id.startswith(text)]
    if len(fitting) > 1:
        ids = ", ".join(sorted(session.session_id for session in fitting)[:4])
        raise UsageError(
            f"expected one session that begins with {text!r}, got {len(fitting)}",
            hint=f"give more of the id: {ids}",
        )
    return fitting[0].directory if fitting else None


def _with_a_log(path: Path) -> Path:
    """Return a path that may be a session; a directory without a log raises LogUnreadable."""
    if path.is_dir() and not any((path / name).exists() for name in (LOG, SESSION)):
        raise LogUnreadable(
            f"expected a session, got the directory {path}, which has no log in it",
            hint="see `nono-trio audit list`",
        )
    return path


def _existing_path(text: str, audit_root: Path | None = None) -> Path:
    path = Path(text)
    if text and path.exists():
        return _with_a_log(path)
    where = f" in {audit_root}" if audit_root else ""
    raise LogUnreadable(
        f"expected a session, got {text!r}, which is none{where}",
        hint="see `nono-trio audit list`",
    )
