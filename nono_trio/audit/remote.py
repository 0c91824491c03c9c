"""Sessions on object stores: one at a time is fetched into a private directory and read there.

Why not streamed: a verifier looks at a session's files many times and in an order of its own, so
streaming would need a second way to verify, and the same bytes would be paid for twice. Fetched,
the one way to verify is used, in constant memory: a file passes through in pieces, and the disk
holds one session and its ledger. What does not fit into the disk is refused before it is fetched.

Rules of this file: it only reads. Only files with the names of a session are fetched. What is
listed, how long it is and what the store says of its version must be the same before and after.
Credentials are the store's library's own business; a URL with a password is refused.
"""

from __future__ import annotations

import contextlib
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from nono_trio.audit import ledger, store
from nono_trio.core.late import late_pattern
from nono_trio.errors import LogUnreadable, NonoTrioError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

SCHEMES: Final = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "file", "memory")
_PACKAGES: Final = {"gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "abfss": "adlfs"}

# A live session is read in this order too: what is checked against the log is older than the log.
SESSION_FILES: Final = (
    store.SESSION, store.CHECKPOINTS, store.LOG, store.FLOWS, store.PROCESSES, store.POLICY,
    store.SUMMARY, store.BUNDLE, *store.CARRIED,
)  # fmt: skip
_LEDGER_FILES: Final = (
    ledger.LEDGER_CHECKPOINTS, ledger.LEDGER_COSIGNATURES, ledger.LEDGER_ANCHORS, ledger.LEDGER,
)  # fmt: skip

PIECE: Final = 1024 * 1024  # of a file in memory
READ_AHEAD: Final = 8 * 1024 * 1024  # of one request: each costs a round trip, so not smaller
KEPT_FREE: Final = 64 * 1024 * 1024  # of the temporary directory's disk, for everybody else

_URL: Final = late_pattern(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_FILE_NAME: Final = late_pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
# By which a store tells one version of an object from another.
_VERSION_KEYS: Final = (
    "type", "size", "ETag", "etag", "generation", "md5Hash", "content_md5", "VersionId",
    "version_id", "LastModified", "last_modified", "updated", "mtime", "created",
)  # fmt: skip


def is_url(text: str) -> bool:
    """Return whether a text is a URL, and not a path."""
    return _URL.match(text) is not None


def as_path(url: str) -> Path | None:
    """Return the path of a file:// URL, None of any other. Raises UsageError."""
    if not url.startswith("file://"):
        return None
    path = url.removeprefix("file://")
    if not path.startswith("/"):
        raise UsageError(
            f"expected file:///DIRECTORY, got {url!r}", hint="a path without file:// works too"
        )
    return Path(path)


def require_url(url: str, asked: str) -> None:
    """Raise UsageError, which names what was asked for, if there is nothing to open at a URL."""
    match = _URL.fullmatch(url)
    scheme, rest = (match[1], match[2]) if match is not None else ("", "")
    account, at, _ = rest.partition("/")[0].rpartition("@")
    if at and ":" in account:
        raise UsageError(
            "a URL must not have a password in it",
            hint="the store's library takes credentials from its variables and files",
        )
    if scheme not in SCHEMES or "::" in url or not rest.strip("/"):
        raise UsageError(
            f"expected a URL with one of {', '.join(SCHEMES[:-1])}, got {asked!r}",
            hint="for example s3://BUCKET/audit/0123456789abcdef",
        )


def split_url(url: str) -> tuple[str, str]:
    """Return the URL above that of a session or a file, and its name. Raises UsageError."""
    above, _, name = url.rstrip("/").rpartition("/")
    for one in (url, above):
        require_url(one, url)
    return above, name


class RemoteRoot:
    """An audit directory at a URL, as a local one: a ledger, and the sessions that are fetched.

    The ledger is fetched at once. The local directory is private, and goes with `close`, with the
    object, or with the process. Each method raises LogUnreadable and UsageError, and blocks without
    a bound of its own (the library retries).
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._path = _open(self.url)
        self.directory = _private_directory()
        """The local audit directory."""
        self._remove = weakref.finalize(self, _remove_tree, self.directory)
        try:
            self._fetch(self.url, self._path, _LEDGER_FILES, self.directory)
        except BaseException:
            self.close()
            raise
        _open_roots.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the local directory."""
        _open_roots.discard(self)
        self._remove()

    def names(self) -> list[str]:
        """Return the ids of all sessions there, in order of their names."""
        entries = self._list(self.url, self._path)
        if not entries:  # a store has no empty directories: the URL is wrong
            raise LogUnreadable(f"there is nothing at {self.url}", hint=_LIST_HINT)
        return sorted(
            name
            for name, entry in entries
            if entry.get("type") == "directory" and store.is_session_id(name)
        )

    @contextlib.contextmanager
    def session(self, name: str) -> Iterator[Path]:
        """The local directory of one session, for as long as the block runs.

        It does not exist if the store has nothing there: the ledger may still know the session.
        """
        if not store.is_session_id(name) or name == store.LATEST:
            raise UsageError(
                f"expected a URL that ends in a session's id, got {self.url}/{name}",
                hint="for example s3://BUCKET/audit/0123456789abcdef",
            )
        directory = self.directory / name
        try:
            self._fetch(f"{self.url}/{name}", f"{self._path}/{name}", SESSION_FILES, directory)
            yield directory
        finally:
            _remove_tree(directory)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A local copy of one file that is no part of a session."""
        if _FILE_NAME.fullmatch(name) is None or name in _LEDGER_FILES:
            raise UsageError(
                f"expected the URL of a session or of a file, got {self.url}/{name}",
                hint="for example s3://BUCKET/audit/0123456789abcdef",
            )
        copy = self.directory / name
        try:
            self._fetch(self.url, self._path, (name,), self.directory)
            if not copy.exists():
                raise LogUnreadable(f"{self.url}/{name} does not exist", hint=_LIST_HINT)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def told(self, text: str) -> str:
        """Return a text that names the URL where it named the local directory."""
        return text.replace(str(self.directory), self.url)

    def _fetch(self, url: str, path: str, wanted: tuple[str, ...], directory: Path) -> None:
        """Copy the files of these names; raises LogUnreadable if anything changed meanwhile."""
        entries = self._list(url, path)
        if not entries:
            return
        directory.mkdir(mode=0o700, exist_ok=True)
        before = _versions(entries, wanted)
        needed = sum(int(dict(version)["size"] or 0) for version in before.values())
        _require_room(url, needed, directory)
        for name in wanted:
            if name in before:
                size = int(dict(before[name])["size"] or 0)
                self._copy(f"{url}/{name}", f"{path}/{name}", size, directory / name)
        if _versions(self._list(url, path), wanted) != before:
            raise _changed(url)

    def _copy(self, url: str, path: str, size: int, copy: Path) -> None:
        with _told(url), copy.open("xb") as into:
            left = size
            if size:  # no library opens an empty object alike
                with self._files.open(
                    path, "rb", block_size=READ_AHEAD, cache_type="readahead"
                ) as source:
                    while left >= 0 and (piece := source.read(PIECE)):
                        left -= len(piece)
                        into.write(piece)
            if left:
                raise _changed(url)

    def _list(self, url: str, path: str) -> list[tuple[str, dict[str, Any]]]:
        """Return what is directly below a path, each with its name; [] if there is nothing.

        In a store a file and a directory may have the same name. Both are returned, so that an
        added object can't hide a file behind a directory.
        """
        with _told(url):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(path, detail=True)
            except FileNotFoundError:
                self._require_bucket(url)
                return []
        beginning = path.strip("/") + "/"
        named = ((str(entry["name"]).strip("/"), entry) for entry in found)
        return [
            (name.removeprefix(beginning), entry)
            for name, entry in named
            if name.startswith(beginning) and "/" not in name.removeprefix(beginning)
        ]

    def _require_bucket(self, url: str) -> None:
        """Tell a bucket that is not there, or not at this endpoint, from one without the path."""
        bucket = self._path.strip("/").partition("/")[0]
        if not self._files.exists(bucket):
            raise LogUnreadable(
                f"{url} can't be read: there is no bucket {bucket!r}",
                hint="check its name, and AWS_ENDPOINT_URL if it is not Amazon's S3",
            )


class SessionsAt:
    """The local directories of a session at a URL, or of each one below it, by name; iterate once.

    `session` is a URL or an id at the location. A directory lies in an audit directory with the
    ledger, alone, and is gone when the next is asked for. A block that uses it must pass its errors
    through `as_asked`, inside of that block. Iterating raises LogUnreadable and UsageError.
    """

    def __init__(self, audit_location: Path | str, session: str | None = None) -> None:
        url = str(audit_location)
        if session is not None and is_url(session):
            url, session = split_url(session)
        self._url = url
        self._session = session
        self.missing: list[str] = []
        """Of all sessions, once they were read: those that the ledger knows and that are gone."""

    def __iter__(self) -> Iterator[Path]:
        """Fetch one after another."""
        with RemoteRoot(self._url) as root:
            names = root.names() if self._session is None else [self._session]
            for name in names:
                with root.session(name) as directory:
                    if self._session is not None and not directory.exists():
                        raise LogUnreadable(f"{root.url}/{name} does not exist", hint=_LIST_HINT)
                    yield directory
            if self._session is None:
                report = ledger.verify(root.directory)
                known = report.digests.keys() - {*names}
                self.missing = sorted(name for name in known if report.knows(name))


def as_asked(text: str) -> str:
    """Return a text that names URLs where it named the local directories that are open now."""
    for root in [*_open_roots]:
        text = root.told(text)
    return text


_open_roots: Final = weakref.WeakSet["RemoteRoot"]()
_LIST_HINT: Final = "look at what is there: the URL names a directory with sessions, or one session"


def _private_directory() -> Path:
    import tempfile  # late: most commands fetch nothing

    # Resolved: what a verifier prints of it is replaced by the URL.
    return Path(tempfile.mkdtemp(prefix="nono-trio-")).resolve()


def _remove_tree(directory: Path) -> None:
    import shutil  # late, as tempfile

    shutil.rmtree(directory, ignore_errors=True)


def _versions(
    entries: list[tuple[str, dict[str, Any]]], wanted: tuple[str, ...]
) -> dict[str, tuple[tuple[str, Any], ...]]:
    return {
        name: tuple((key, entry.get(key)) for key in _VERSION_KEYS)
        for name, entry in entries
        if name in wanted and entry.get("type") == "file"
    }


def _require_room(url: str, needed: int, directory: Path) -> None:
    import shutil  # late, as tempfile

    free = shutil.disk_usage(directory).free
    if needed > free - KEPT_FREE:
        raise LogUnreadable(
            f"{url} has {needed} bytes, which do not fit into {directory} ({free} bytes are free)",
            hint="set TMPDIR to a directory with more room",
        )


def _changed(url: str) -> LogUnreadable:
    return LogUnreadable(
        f"{url} changed while it was read", hint="try again when nothing writes to it any more"
    )


def _open(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    require_url(url, url)
    with _told(url):
        from fsspec.core import url_to_fs

        files, path = url_to_fs(url)
        return files, str(path)


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn what a store's library raises into an error for a person."""
    try:
        yield
    except (NonoTrioError, MemoryError):
        raise
    except ImportError as error:
        package = _PACKAGES.get(url.partition(":")[0])
        more = f" {package}" if package else ""
        raise UsageError(
            f"{url}: a package that it needs is missing: {error}",
            hint=f"pip install 'nono-trio[remote]'{more}",
        ) from error
    except Exception as error:  # each library has its own kinds
        raise LogUnreadable(f"{url} can't be read: {_reason(error)}", hint=_hint(error)) from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:300].rstrip(".")


def _hint(error: Exception) -> str:
    text = f"{type(error).__name__} {error}".lower()
    if isinstance(error, PermissionError) or "credential" in text or "forbidden" in text:
        return (
            "the store refuses these credentials: check them with its own tool; its library takes"
            " them from its usual variables and files, for S3 AWS_PROFILE or AWS_ACCESS_KEY_ID"
        )
    if "changed" in text or "expired" in text or "precondition" in text:
        return "try again when nothing writes to it any more"
    return "check the network, and AWS_ENDPOINT_URL if it is not Amazon's S3"
