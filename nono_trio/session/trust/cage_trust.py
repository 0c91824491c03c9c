"""The trust of one session: its authority, the files that carry it into the cage, the variables.

Rules of this file:
- It is made only when something is intercepted, before the launcher is started.
- With a mount view, the bundle is mounted over the system's files and a trust store over each JDK's
  cacerts; without one, variables name the files.
- The command reads all of it and can write none of it. The authority's key is in no file.
- What the command trusts more than before is the session's authority alone; what it trusted stays.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding

from nono_trio.errors import CageFailed
from nono_trio.posix.paths import home_directory, is_in
from nono_trio.posix.safe_open import read_whole
from nono_trio.proxy.intercept.java_trust import with_authority
from nono_trio.proxy.intercept.root_store import (
    MAX_FILE,
    certificates_of,
    forget_files,
    system_file,
    to_pem,
)
from nono_trio.sandbox.filesystem.plan import PRIVATE
from nono_trio.sandbox.launcher.cage_plan import CageGrant, MountOp
from nono_trio.session.command_files import CommandFiles
from nono_trio.session.opened_files import OpenedFiles
from nono_trio.session.trust.browser_trust import (
    FILE,
    FIREFOX_FILE,
    firefox_policy,
    free_directories,
    policy,
)
from nono_trio.session.trust.session_trust import open_session_trust
from nono_trio.session.trust.trust_places import (
    BROWSER_POLICIES,
    FIREFOX_POLICIES,
    java_stores,
    npm_cafiles,
    system_files,
)
from nono_trio.session.trust.trust_variables import (
    ADDING,
    JAVA,
    REPLACING,
    variables_alone,
    variables_beside_mounts,
    without_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation
    from nono_trio.session.trust.session_trust import SessionTrust

DIRECTORY: Final = "trust"
_BUNDLE, _EXTRA, _WGETRC, _JAVA = "ca-bundle.pem", "extra-ca.pem", "wgetrc", "java-cacerts"
_POLICY, _FIREFOX, _ROOT = "chromium-policy.json", "firefox-policy.json", "session-ca.pem"
# Files of npm's settings, which an earlier command may have written, and the bytes of one file.
# Mozilla's roots have 220 KiB.
MAX_CAFILES: Final = 4
MAX_CAFILE: Final = 1024 * 1024
# Paths of the view that never show the host's files: the first that no grant covers is taken.
_SHOWN: Final = ("/run/nono-trio/trust", *(f"{path}/.nono-trio-trust" for path in PRIVATE))


class _Mounted(NamedTuple):
    """A file of ours and the place at which the cage sees it."""

    path: str
    source: str


@dataclass
class CageTrust:
    """The trust of a run; `notes` are sentences for the user."""

    session: SessionTrust
    notes: list[str]
    _files: CommandFiles
    has_mounts: bool
    _shown: str | None  # the directory of our files in a view; None: the command sees the files
    _mounted: list[_Mounted] = field(default_factory=list)
    _seen: dict[str, str] = field(default_factory=dict)  # name of a file -> the command's path
    _names: list[str] = field(default_factory=list)
    _system: list[str] = field(default_factory=list)
    _java: list[str] = field(default_factory=list)
    _policies: list[str] = field(default_factory=list)  # directories of browsers' policies
    _npm: bool = False

    def close(self) -> None:
        """Remove the files; the command has ended."""
        self._files.close()

    def mounts(self) -> list[MountOp]:
        """Return the mounts of a view; nothing if the command sees the files themselves."""
        found = [MountOp("bind", name) for name in self._names]  # for the links on the way
        for path, source in self._mounted:
            status = os.stat(source)
            identity = (status.st_dev, status.st_ino)
            found.append(MountOp("host_file", path, source=source, identity=identity))
        return found

    def grants(self) -> list[CageGrant]:
        """Return the grants to read the files."""
        paths = [*self._seen.values(), *(one.path for one in self._mounted)]
        return [
            *(CageGrant(path, "read", is_file=True) for path in dict.fromkeys(paths)),
            *(CageGrant(path, "read", is_file=False) for path in self._policies),
        ]

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return the command's `environment` with the variables of trust."""
        bundle, extra = self._seen[_BUNDLE], self._seen[_EXTRA]
        if self.has_mounts:
            added = variables_beside_mounts(environment, bundle, extra, npm=self._npm)
        else:
            java, wgetrc = self._seen.get(_JAVA), self._seen[_WGETRC]
            added = variables_alone(environment, bundle, extra, wgetrc=wgetrc, java_store=java)
        return without_directory(environment) | added

    @property
    def statements(self) -> list[str]:
        """Say which programs trust the session's authority, and by what."""
        if not self.has_mounts:
            java = f"; Java by {JAVA}" if _JAVA in self._seen else ""
            said = [
                "trust: variables name the session's authority (docs/intercept.md) to curl, wget,"
                f" git, Python, Node, Deno, Bun, Go, Rust, Ruby, PHP{java}"
            ]
        else:
            files = ", ".join(self._system) or "no file of this system"
            said = [
                f"trust: {files} has the session's authority: curl, wget, git, OpenSSL, GnuTLS,"
                " Python, Go, Ruby, PHP",
                "trust: variables name it to Node, Deno, Bun, uv, cargo, requests, pip, aws",
                *(f"trust: {path} has it: Java" for path in self._java),
            ]
        if self._policies:
            return [*said, f"trust: browsers read it in {', '.join(self._policies)}"]
        return [*said, "trust: not in Chromium and Firefox, whose stores are their own"]

    def add_file(self, name: str, data: bytes, *, shown: bool = True) -> str:
        """Write a file; `shown`: the command gets to see it by its name. Raises OSError."""
        source = self._files.write(name, data)
        if shown and self._shown is not None:
            path = f"{self._shown}/{name}"
            self._mounted.append(_Mounted(path, source))
            self._seen[name] = path
        elif shown:
            self._seen[name] = source
        return source

    def mount_system(self, path: str, source: str, names: Iterable[str]) -> None:
        """Show a file of ours in place of the system's `path`, and the links of its `names`."""
        self._names += names
        self._mounted.append(_Mounted(path, source))
        self._system.append(path)

    def mount_java(self, path: str, source: str) -> None:
        """Show a trust store of ours in place of a JDK's `path`."""
        self._mounted.append(_Mounted(path, source))
        self._java.append(path)

    def mount_policies(self, directories: Iterable[str], name: str, source: str) -> None:
        """Show a policy file of ours by `name` in each directory."""
        for directory in directories:
            self._mounted.append(_Mounted(f"{directory}/{name}", source))
            self._policies.append(directory)

    def path_of(self, name: str) -> str:
        """Return the command's path of a file."""
        return self._seen[name]

    def hide_npms_setting(self) -> None:
        """Lead npm to the bundle, because a setting names another file."""
        self._npm = True


class Opened(OpenedFiles):
    """Which files of the host are open to the command, and a place for ours in a view."""

    def directory(self) -> str:
        """The first place of the view that never shows the host's files."""
        taken = self.granted
        for path in _SHOWN:
            private = next((one for one in PRIVATE if is_in(path, one)), "/")
            # A private directory is over what surrounds it, but not over a grant of it or in it.
            if not any(is_in(path, one) and is_in(one, private) for one in taken):
                return path
        raise CageFailed(
            "every place for the session's certificates in the cage is granted to the command:"
            f" {', '.join(_SHOWN)}",
            hint="grant less of them than the whole directory",
        )


def open_cage_trust(
    options: RunOptions, files: FilePlan, isolation: Isolation, home: str | None
) -> CageTrust:
    """Make the authority and its files; raises UsageError, CageFailed.

    `home`: a directory of the host that the command has as its home, if it is one.
    """
    opened = Opened(files, sandbox=options.sandbox)
    environment = {**options.environment, **options.set_variables}
    session = open_session_trust(
        options.session.network,
        environment,
        can_read=opened.reader,
        may_write=opened.may_write,
    )
    has_mounts = isolation == "namespace"
    shown = opened.directory() if has_mounts and options.sandbox else None
    try:
        own = CommandFiles(options.session.audit.state_root, DIRECTORY)
        trust = CageTrust(session, [*session.roots.notes], own, has_mounts, shown)
        try:
            _add_bundles(trust, environment, opened, [files.start, home or home_directory()])
            _add_java(trust, environment, opened)
            if shown is not None:
                _add_policies(trust, opened)
        except BaseException:
            trust.close()
            raise
    except OSError as error:
        raise CageFailed(
            f"the files that make programs trust the session can't be made: {error}",
            hint="choose another place for them with --audit-dir",
        ) from error
    forget_files()
    return trust


def _add_bundles(
    trust: CageTrust, environment: Mapping[str, str], opened: Opened, settings: Iterable[str]
) -> None:
    """Write the bundle and show it in place of the system's; `settings` may have npm's."""
    authority = trust.session.authority
    found = [der for path in _named_by_others(environment) for der in certificates_of(path)[0]]
    system = system_file()
    if system is not None and opened.may_write(system):  # it stays what the command itself trusts
        found += certificates_of(system)[0]
    npm = npm_cafiles(settings)
    if npm is not None:
        trust.hide_npms_setting()
        for path in npm[:MAX_CAFILES]:
            if opened.reader(path) is not None:
                found += certificates_of(path, MAX_CAFILE)[0]
    roots = trust.session.roots
    known = {*roots.system}
    more = [one for one in dict.fromkeys((*roots.others, *found)) if one not in known]
    bundle = trust.add_file(_BUNDLE, to_pem((*roots.system, *more)) + authority.pem())
    trust.add_file(_EXTRA, to_pem(more) + authority.pem())
    if not trust.has_mounts:
        wgetrc = f"ca_certificate = {trust.path_of(_BUNDLE)}\n"
        trust.add_file(_WGETRC, os.fsencode(wgetrc))
        return
    for path, names in system_files().items():
        if not opened.is_closed(path):
            trust.mount_system(path, bundle, names)


def _named_by_others(environment: Mapping[str, str]) -> list[str]:
    """The files that variables of single programs name: the bundle takes their place."""
    return [path for name in (*ADDING, *REPLACING) if (path := environment.get(name))]


def _add_java(trust: CageTrust, environment: Mapping[str, str], opened: Opened) -> None:
    """Extend the trust store of each JDK that the command can read."""
    certificates = [one.public_bytes(Encoding.DER) for one in trust.session.authority.chain]
    readable = [path for path in java_stores(environment) if opened.reader(path) is not None]
    for number, path in enumerate(readable):
        store, problem = None, "it is no trust store of a kind that can be extended"
        if opened.may_write(path):  # parsing a hostile one could take hours
            problem = "the command may write it"
        else:
            with suppress(OSError):
                store = with_authority(read_whole(Path(path), MAX_FILE), certificates)
        if store is None:
            trust.notes.append(
                f"{path} stays as it is, so Java programs refuse intercepted hosts: {problem}"
            )
        elif trust.has_mounts:
            trust.mount_java(path, trust.add_file(f"{_JAVA}-{number}", store, shown=False))
        else:  # one variable, so one store: the first is that of the `java` on PATH
            trust.add_file(_JAVA, store)
            return


def _add_policies(trust: CageTrust, opened: Opened) -> None:
    """Have browsers that read a policy trust the authority."""
    authority = trust.session.authority
    if free := free_directories(BROWSER_POLICIES, opened.shows):
        source = trust.add_file(_POLICY, policy(authority), shown=False)
        trust.mount_policies(free, FILE, source)
    if free := free_directories(FIREFOX_POLICIES, opened.shows):
        trust.add_file(_ROOT, authority.certificate.public_bytes(Encoding.PEM))
        source = trust.add_file(_FIREFOX, firefox_policy(trust.path_of(_ROOT)), shown=False)
        trust.mount_policies(free, FIREFOX_FILE, source)
