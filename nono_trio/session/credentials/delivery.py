"""How stand-ins reach the command: its variables, and copies of the user's files.

Rules of this file:
- No variable of the command has a secret, whatever flags say. A variable of a credential has its
  stand-in, and so has the variable that the secret was read from. In others the secret is replaced.
- A variable that is held back because it looks like a secret is passed on if nothing is left in it
  but the stand-in, or a URL around it. Others stay held back: there may be another secret in them.
- Messages may name variables and paths, never values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.credential import ENVIRONMENT, parse_source
from nono_trio.core.credentials.replace import with_stand_ins
from nono_trio.core.policy.variables import Inherited, check_set, is_dangerous, is_secret
from nono_trio.errors import CageFailed, UsageError
from nono_trio.sandbox.launcher.cage_plan import CageGrant, MountOp
from nono_trio.session.command_files import CommandFiles
from nono_trio.session.credentials.home_copies import HomeCopies
from nono_trio.session.credentials.user_files import below, copies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.policy.variables import VariableRules
    from nono_trio.session.credentials.held_secret import HeldSecret
    from nono_trio.session.credentials.table import SessionCredentials
    from nono_trio.session.credentials.user_files import CopiedFile
    from nono_trio.session.homes.session_home import RunHome
    from nono_trio.session.opened_files import OpenedFiles

DIRECTORY: Final = "credentials"
_NEUTRAL: Final = "VALUE"  # a name that tells nothing about what it has


@dataclass
class CageCredentials:
    """The stand-ins of a run, on their way into its cage."""

    session: SessionCredentials
    _mounts: list[MountOp] = field(default_factory=list)
    _grants: list[CageGrant] = field(default_factory=list)
    _files: CommandFiles | None = None
    _in_home: HomeCopies | None = None
    _shown: list[str] = field(default_factory=list)
    _changed: dict[str, None] = field(default_factory=dict)

    def close(self) -> None:
        """Remove the copies; the command has ended."""
        if self._files is not None:
            self._files.close()
        if self._in_home is not None:
            self._in_home.close()

    def mounts(self) -> list[MountOp]:
        """Return the mounts of a view."""
        return self._mounts

    def grants(self) -> list[CageGrant]:
        """Return the grants to read the copies."""
        return self._grants

    def inherited(
        self, inherited: Inherited, environment: Mapping[str, str], rules: VariableRules
    ) -> Inherited:
        """Return what is passed on of the caller's `environment`, with stand-ins."""
        passed = dict(inherited.passed)
        held_back = set(inherited.held_back)
        for name, value in environment.items():
            changed = self._replaced(value)
            if changed == value or is_dangerous(name):
                continue
            if name not in passed and not self._is_harmless(name, value, held_back):
                continue
            passed[name] = changed
            held_back.discard(name)
            self._changed[name] = None
        for one in self.session.held:
            for name in _source_variables(one.credential):  # its own first: secrets may be equal
                pairs = (*one.pairs(), *self._pairs)
                passed[name] = os.fsdecode(with_stand_ins(os.fsencode(environment[name]), pairs))
            passed.update(_values(one))
            held_back.difference_update(variable_names(one.credential))
        return Inherited(passed, tuple(sorted(held_back)))

    def variables(self, of_command: Mapping[str, str]) -> dict[str, str]:
        """Return the command's variables without any secret."""
        found = {name: self._replaced(value) for name, value in of_command.items()}
        for one in self.session.held:
            found |= _values(one)
        return found

    @property
    def statements(self) -> list[str]:
        """Say by what the command has each stand-in."""
        return [*self._statements()]

    def _statements(self) -> Iterator[str]:
        own: set[str] = set()
        for one in self.session.held:
            names = variable_names(one.credential)
            own.update(names)
            where = ", ".join(names) or "no variable"
            yield f"credential {one.credential.name}: the command has a stand-in ({where})"
        more = [name for name in self._changed if name not in own]
        if more:
            yield f"a stand-in is in the place of a secret in the variables {', '.join(more)}"
        if self._shown:
            yield f"a stand-in is in the place of a secret in {', '.join(self._shown)}"

    def show(self, files: Sequence[CopiedFile], state_root: Path) -> None:
        """Mount copies in a view. Raises OSError."""
        self._files = CommandFiles(state_root, DIRECTORY)
        for number, file in enumerate(files):
            source = self._files.write(str(number), file.data, 0o600)
            status = os.stat(source)
            if file.is_granted:  # so that the directories on the way can't be renamed
                self._mounts.append(MountOp("read_only", file.path))
            identity = (status.st_dev, status.st_ino)
            self._mounts.append(MountOp("host_file", file.path, source=source, identity=identity))
            self._grants.append(CageGrant(file.path, "read", is_file=True))
            self._shown.append(file.given)

    def leaves(self, kept_home: str, mount_points: Sequence[str]) -> None:
        """Say which mount points a view will leave below a kept home."""
        self._in_home = HomeCopies(kept_home, mount_points)

    def write(self, files: Sequence[CopiedFile], home: str) -> None:
        """Write copies into the cage's home. Raises OSError."""
        self._in_home = HomeCopies(home)
        for file in files:
            self._in_home.write(os.path.relpath(file.path, home), file.data)
            self._shown.append(file.given)

    def say(self, files: Sequence[CopiedFile]) -> None:
        """Name copies that are not made."""
        self._shown += [file.given for file in files]

    def _replaced(self, value: str) -> str:
        return os.fsdecode(with_stand_ins(os.fsencode(value), self._pairs))

    @property
    def _pairs(self) -> list[tuple[bytes, bytes]]:
        return [pair for one in self.session.held for pair in one.pairs()]

    def _is_harmless(self, name: str, value: str, held_back: set[str]) -> bool:
        """Return whether a variable that is held back has only the secret, or a URL around it."""
        if name not in held_back:  # the user denies it
            return False
        without = [(secret, b"") for secret, _ in self._pairs]
        rest = os.fsdecode(with_stand_ins(os.fsencode(value), without))
        return not rest or ("://" in rest and not is_secret(_NEUTRAL, rest))


def variable_names(credential: Credential) -> list[str]:
    """Return the variables in which the command has a credential's stand-in."""
    return [*dict.fromkeys([*credential.variables, *_source_variables(credential)])]


def _own_variables(credential: Credential) -> tuple[str, ...]:
    return credential.variables


def _source_variables(credential: Credential) -> list[str]:
    """Return the variables that its secret was read from. The secret of a client, which is
    exchanged for a token, is not passed on in any form."""
    if credential.oauth2 is not None:
        return []
    sources = [parse_source(credential.name, one) for one in credential.references]
    names = [one.words[0] for one in sources if one.kind == ENVIRONMENT]
    return [name for name in names if _may_be_set(name)]


def _values(held: HeldSecret) -> dict[str, str]:
    return {name: value.decode() for name, value in held.values().items()}


def check_variables(session: SessionCredentials) -> None:
    """Raise UsageError if each variable of a credential has the stand-in of another one."""
    owners: dict[str, Credential] = {}
    for names in (_source_variables, _own_variables):  # as they are written: later ones win
        for one in session.held:
            owners |= dict.fromkeys(names(one.credential), one.credential)
    for one in session.held:
        names_of_it = variable_names(one.credential)
        if names_of_it and all(owners[name] is not one.credential for name in names_of_it):
            name = names_of_it[0]
            raise UsageError(
                f"the credentials {one.credential.name} and {owners[name].name} both have the"
                f" variable {name}, which can have one stand-in",
                hint=f"write one credential with the hosts of both, or name another variable:"
                f' variables = ["{name}_2"] of credentials.{one.credential.name} in a profile',
            )


def check_command(session: SessionCredentials, command: Sequence[str]) -> None:
    """Raise UsageError for a command line with a secret: the command would have it, and so would
    the log."""
    for one in session.held:
        for word in command:
            given = os.fsencode(word)
            if with_stand_ins(given, one.pairs()) != given:
                names = variable_names(one.credential)
                raise UsageError(
                    f"the command line has the secret of the credential {one.credential.name}",
                    hint="leave it to the command to read its variable, which has a stand-in"
                    + (f": sh -c '... ${names[0]} ...'" if names else ""),
                )


def deliver(
    session: SessionCredentials,
    opened: OpenedFiles,
    home: RunHome,
    state_root: Path,
    *,
    has_view: bool,
    sandbox: bool,
    dry: bool = False,
) -> CageCredentials:
    """Make the copies of files, or with `dry` only say which.

    Raises UsageError, CageFailed; then nothing is left behind.
    """
    cage = CageCredentials(session)
    named = [path for one in session.held for path in one.credential.files]
    if not named:
        return cage
    if not sandbox:
        raise UsageError(
            f"--no-sandbox shows {named[0]} to the command as it is",
            hint="leave it out of `files`, or leave the file sandbox on",
        )
    files = copies(session.held, opened, home, has_view=has_view)
    if dry:
        cage.say(files)
        return cage
    inside = [path for file in files if (path := below(file.path, home.path)) is not None]
    home.copied += inside
    try:
        if has_view:
            cage.show(files, state_root)
            if home.held is not None:
                cage.leaves(home.held.path, inside)
        else:
            assert home.path is not None
            cage.write(files, home.path)
    except OSError as error:
        cage.close()
        raise CageFailed(
            f"the copies of files with stand-ins can't be made: {error.strerror or error}",
            hint="choose another place for them with --audit-dir",
        ) from error
    return cage


def _may_be_set(name: str) -> bool:
    try:
        check_set(name)
    except UsageError:
        return False
    return not is_dangerous(name)
