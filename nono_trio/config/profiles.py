"""Find profiles, read them, and merge each with everything that it extends.

Rules of this file: NAME is looked for among the user's own profiles, then among ours; what has a
slash or ends in .toml or .json is a file. A user's profile may carry the name of one of ours and
extend it. A file is read once, whole, and must be a regular one of bounded size.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from nono_trio.config.user_paths import profile_directory
from nono_trio.core.log.policy_json import UsedProfile
from nono_trio.core.profile.parser import read_profile
from nono_trio.core.profile.schema import SourcedProfile, merge
from nono_trio.core.profile.values import suggestion
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nono_trio.core.profile.parser import Reading

Source = Literal["user", "built-in", "file"]

ENDINGS: Final = (".toml", ".json")
# A hundred times a long profile; what is larger was given by mistake (a device, a log).
MAX_BYTES: Final = 256 * 1024
# Deeper than anybody can follow in his head; it bounds what a mistake can cost.
MAX_DEPTH: Final = 16

_BUILT_IN: Final = Path(__file__).resolve().parent.parent / "profiles"


@dataclass(frozen=True)
class Found:
    """A profile that exists, by the name or path it was asked for."""

    name: str
    source: Source
    path: Path

    @property
    def shown(self) -> str:
        """Its file as errors name it: a path, or `built-in NAME`."""
        return f"built-in {self.path.name}" if self.source == "built-in" else str(self.path)


@dataclass(frozen=True)
class Loaded:
    """A profile with everything it extends; `chain` are all its files, bases first.

    `used` are the same with the digests of the bytes that were read.
    """

    found: Found
    sourced: SourcedProfile
    chain: tuple[Found, ...]
    used: tuple[UsedProfile, ...]


def is_path(reference: str) -> bool:
    """Tell whether a profile is asked for by its file instead of by its name."""
    return "/" in reference or reference.endswith(ENDINGS)


def available(environ: Mapping[str, str]) -> list[Found]:
    """Every profile there is, the user's own first; one of ours may be shadowed."""
    own = [Found(path.stem, "user", path) for path in _files(profile_directory(environ))]
    return own + [Found(path.stem, "built-in", path) for path in _files(_BUILT_IN)]


def find(reference: str, environ: Mapping[str, str], beside: Path | None = None) -> Found:
    """Find NAME or FILE (relative to `beside`, or to the current directory).

    Raises UsageError for an unknown name, and for a name that two files carry.
    """
    if is_path(reference):
        path = Path(beside or "", expand_home(reference))
        if not path.exists():
            raise _no_file(path)
        return Found(reference, "file", path)
    every = available(environ)
    fitting = [found for found in every if found.name == reference]
    if not fitting:
        raise UsageError(
            f"there is no profile {reference!a}",
            hint=suggestion(reference, dict.fromkeys(f.name for f in every), "the profiles are"),
        )
    if len(fitting) > 1 and fitting[1].source == fitting[0].source:
        raise UsageError(
            f"two files carry the profile name {reference!a}: {fitting[0].path} and"
            f" {fitting[1].path}",
            hint="remove one of them",
        )
    return fitting[0]


def read(found: Found) -> Reading:
    """Read one file without what it extends; raises UsageError if it can't be read at all."""
    return _reading(found, _bytes(found))


def _reading(found: Found, data: bytes) -> Reading:
    return read_profile(_text(found, data), found.shown, built_in=found.source == "built-in")


def shown_text(shown: str) -> str:
    r"""Return a path with bytes that are not UTF-8 written as `ÿ`."""
    return shown.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def load(reference: str, environ: Mapping[str, str]) -> Loaded:
    """Find a profile and put it together; raises UsageError for the first thing that is wrong."""
    return load_found(find(reference, environ), environ)


def load_found(found: Found, environ: Mapping[str, str]) -> Loaded:
    """Put a profile together with what it extends; raises UsageError."""
    chain: dict[Path, Found] = {}
    digests: dict[str, str] = {}
    sourced = _resolve(found, environ, (), chain, digests)
    used = tuple(UsedProfile(source=name, sha256=digest) for name, digest in digests.items())
    return Loaded(found, sourced, tuple(chain.values()), used)


def _resolve(
    found: Found,
    environ: Mapping[str, str],
    above: tuple[Found, ...],
    chain: dict[Path, Found],
    digests: dict[str, str],
) -> SourcedProfile:
    """A profile on all its bases; `above` are those that extend it, outermost first."""
    data = _bytes(found)
    digests[shown_text(found.shown)] = hashlib.sha256(data).hexdigest()
    own = _reading(found, data).accepted()
    above = (*above, found)
    merged = SourcedProfile()
    for entry in own.profile.bases:
        where = own.origin("extends", entry) or own.origin("extends")
        try:
            base = _base(entry, found, environ)
            _refuse_cycle(base, above)
        except UsageError as error:
            raise UsageError(f"{where}: extends: {error.message}", hint=error.hint) from None
        merged = merge(merged, _resolve(base, environ, above, chain, digests))
    chain.setdefault(found.path.resolve(), found)
    return merge(merged, own)


def _base(entry: str, found: Found, environ: Mapping[str, str]) -> Found:
    """Find what `extends` names; its own name means the built-in profile that it shadows."""
    if found.source == "user" and entry == found.name:
        ours = [one for one in available(environ) if one.source == "built-in"]
        base = next((one for one in ours if one.name == entry), None)
        if base is None:
            raise UsageError(f"{entry} extends itself")
        return base
    return find(entry, environ, beside=found.path.parent)


def _refuse_cycle(base: Found, above: tuple[Found, ...]) -> None:
    path = base.path.resolve()
    if any(path == one.path.resolve() for one in above):
        names = [*(one.name for one in above), base.name]
        raise UsageError(f"a circle: {' -> '.join(names)}", hint="take one of them out")
    if len(above) >= MAX_DEPTH:
        raise UsageError(f"more than {MAX_DEPTH} profiles deep", hint="extend fewer of them")


def _bytes(found: Found) -> bytes:
    path = found.path
    try:
        # Without O_NONBLOCK the open of a pipe without a writer never returns.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(f"profile {path}: expected a file", hint=_look_at(path))
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _no_file(path) from None
    except OSError as error:
        raise UsageError(
            f"profile {path} can't be read: {error.strerror or error}", hint=_look_at(path)
        ) from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"profile {path}: expected at most {MAX_BYTES} bytes")
    return data


def _look_at(path: Path) -> str:
    return f"look at it: ls -ld {shlex.quote(str(path))}"


def _text(found: Found, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise UsageError(f"{found.path}:{line}: not UTF-8 text") from None


def _no_file(path: Path) -> UsageError:
    return UsageError(
        f"there is no profile file {path}", hint="see `nono-trio profile list` for the names"
    )


def _files(directory: Path) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:  # no such directory, or none that may be read: no profiles
        return
    yield from (path for path in entries if path.suffix in ENDINGS)
