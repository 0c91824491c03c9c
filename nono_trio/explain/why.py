"""`why --path`: may a path be read or written, by which rule, and which flag would change it.

Rules of this file: answers come from the file plan that enforces (those of why_host.py and
why_url.py from the policy), never from a copy of its rules; a flag is suggested only after the plan
with that flag was made and allows what was asked. An answer is for the isolation that this machine
gives, which is tried: with namespaces /tmp is the cage's own and closed paths inside a grant are
covered, without them neither.
"""

from __future__ import annotations

import os
import shlex
import stat
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from nono_trio.config.options import Limits
from nono_trio.errors import CageFailed, CommandNotFound, UsageError
from nono_trio.explain.answer import Answer
from nono_trio.explain.doctor import chosen_isolation
from nono_trio.posix.paths import is_in
from nono_trio.sandbox.build_plan import cage_files
from nono_trio.sandbox.filesystem.grant import absolute
from nono_trio.sandbox.filesystem.plan import PRIVATE, Grant
from nono_trio.sandbox.filesystem.streams import DEVICES
from nono_trio.sandbox.network_files import hides, network_texts, with_network_texts
from nono_trio.session.homes.session_home import resolve_home
from nono_trio.session.planned_program import resolve_files
from nono_trio.session.platforms import preferred_isolation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.filesystem.plan import FileOptions, FilePlan
    from nono_trio.sandbox.launcher.cage_plan import Isolation
    from nono_trio.session.homes.session_home import RunHome

Operation = Literal["read", "write"]

# A program that makes a terminal opens both: the cage's own, or without them the host's.
_PTS, _PTMX = "/dev/pts", "/dev/ptmx"
# A command that every cage can start: what is asked for is the cage.
_PROBE = "true"
_HIDDEN = "the symlink {} is not in the cage, though what it leads to is"


def explain_path(options: RunOptions, text: str, operation: Operation) -> Answer:
    """Say whether the command may read or write a path; raises UsageError for refused grants."""
    path = absolute(text, os.getcwd())
    isolation, notes = _isolation_here(options)
    files = resolve_files(options, isolation)
    subject = f"{operation} {path}"
    if not options.sandbox:
        return Answer(subject, True, "the file sandbox is off", "--no-sandbox")
    home = resolve_home(options, files, isolation)
    notes += _path_notes(path) + _home_notes(home, path)
    grant, connects = files.covers(path, operation), files.connects(path)
    hidden = _hidden_link(files, isolation, path)
    if hidden is not None and (grant is not None or connects is not None):
        hint, obstacle = _suggestion(options, isolation, path, operation, ())
        notes = notes if obstacle is None else (*notes, obstacle)
        reason = _HIDDEN.format(hidden)
        answer = Answer(subject, False, reason, None, hint, notes)
    elif grant is not None:
        answer = Answer(subject, True, f"granted: {_granted(grant)}", _rule(grant), notes=notes)
    elif connects is not None and _is_socket(path):
        reason = f"the command may connect to it, and no more: {_granted(connects)}"
        answer = Answer(f"connect {path}", True, reason, _rule(connects), notes=notes)
    else:
        answer = _without_grant(options, isolation, files, home.path, path, operation, notes)
    if isolation == "namespace" and not answer.allowed and _is_seen(home, path, answer.rule):
        answer = replace(answer, notes=(*answer.notes, *_recorded(path)))
    if isolation == "namespace" and hides(files, path) and answer.allowed:
        answer = replace(answer, notes=(*answer.notes, f"{path} is the cage's own there"))
    # Those about grants that were skipped; where the command starts is not what was asked.
    skipped = tuple(warning for warning in files.warnings if warning.endswith("skipped"))
    return replace(answer, warnings=skipped)


def _hidden_link(files: FilePlan, isolation: Isolation, path: str) -> str | None:
    """The first symlink on the way to a path that the cage does not have, None if it has all."""
    if isolation != "namespace":
        return None
    hidden = files.hidden_link(path)
    own = (DEVICES, "/proc")  # with links that the cage makes itself
    return None if hidden is None or any(is_in(hidden, one) for one in own) else hidden


def _is_seen(home: RunHome, path: str, rule: str | None) -> bool:
    """Return whether the view sees look-ups of a path without a grant (docs/denied-files.md)."""
    if home.path is not None and is_in(path, home.plan.real):
        return True
    return rule is None and not any(is_in(path, one) for one in PRIVATE)


def _recorded(path: str) -> Iterator[str]:
    """Yield a note if the log records look-ups of an existing file without a grant."""
    from nono_trio.sandbox.launcher.linux.view_mount import DEVICE  # Linux only

    if os.path.lexists(path) and os.access(DEVICE, os.R_OK | os.W_OK):
        yield "for the command it does not exist; a look-up of it is recorded"


def _isolation_here(options: RunOptions) -> tuple[Isolation, tuple[str, ...]]:
    """Return the isolation of a run on this machine, and notes about it."""
    preferred = preferred_isolation(options)
    if preferred == "none" or not options.sandbox:
        return preferred, ()
    probed = replace(options, command=(_PROBE,), listen_ports=(), limits=Limits())
    try:
        chosen = chosen_isolation(probed)
    except (CageFailed, CommandNotFound) as failed:
        here = f"answered for {preferred} isolation, which is not available on this machine"
        return preferred, (f"{here}: {failed.message}",)
    if chosen == preferred:
        return chosen, ()
    note = f"answered for {chosen} isolation: namespaces are not available on this machine"
    return chosen, (note,)


def _path_notes(path: str) -> tuple[str, ...]:
    notes = []
    real = os.path.realpath(path)
    if real != path:
        notes.append(f"a symlink leads on to {real}, which is what counts")
    if not os.path.lexists(path):
        notes.append("there is no such path now")
    return tuple(notes)


def _granted(grant: Grant) -> str:
    leads = f", which leads to {grant.real}" if grant.real != grant.path else ""
    return f"{grant.access} {'' if grant.is_file else 'below '}{grant.path}{leads}"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _home_notes(home: RunHome, path: str) -> tuple[str, ...]:
    plan = home.plan
    if home.path is None or not is_in(path, plan.real):
        return ()
    if plan.moved:
        return (f"in this isolation HOME names {home.path}, the cage's own home",)
    lasts = f"kept as {home.name}" if home.name is not None else "it ends with the session"
    return (f"the cage has a home of its own ({lasts})",)


def _rule(grant: Grant) -> str:
    return f"{grant.source} {grant.path}" if grant.asked_for else grant.source


def _without_grant(
    options: RunOptions,
    isolation: Isolation,
    files: FilePlan,
    home: str | None,
    path: str,
    operation: Operation,
    notes: tuple[str, ...],
) -> Answer:
    """Answer for a path without a grant: the cage's own, protected, or just not there."""
    subject = f"{operation} {path}"
    own = _own_grant(files, isolation, home, path, operation)
    is_private = (
        own is not None and isolation == "namespace" and own.path in (*PRIVATE, DEVICES, home)
    )
    hidden = _hidden_link(files, isolation, path)
    if own is not None and hidden is not None:
        leads = f"name where it leads: {os.path.realpath(path)}"
        return Answer(subject, False, _HIDDEN.format(hidden), None, leads, notes)
    if own is not None and not (is_private and _is_of_the_host(path, own)):
        reason = f"every cage may {operation} {own.path}"
        if isolation == "namespace":
            reason = f"{own.path} is the cage's own, not the host's"
        return Answer(subject, True, reason, "nono-trio", notes=notes)
    closed = files.closes(path)
    kept = files.keeps(os.path.realpath(path))
    lift = tuple(one for one in (closed, kept) if one is not None)
    hint, obstacle = _suggestion(options, isolation, path, operation, lift)
    if obstacle is not None:
        notes = (*notes, obstacle)
    if closed is not None:
        reason = f"{closed} is protected (secrets or start-up files)"
        return Answer(subject, False, reason, "a deny rule", hint, notes)
    if kept is not None:
        reason = f"{kept} is nono-trio's own code, which stays read-only"
        return Answer(subject, False, reason, "nono-trio", hint, notes)
    if own is not None:
        reason = f"the cage has a {own.path} of its own, in which the host's files are not"
        return Answer(subject, False, reason, "nono-trio", hint, notes)
    return Answer(subject, False, "no grant covers it", None, hint, notes)


def _is_of_the_host(path: str, own: Grant) -> bool:
    """Return whether a path means a file of the host that a private directory hides."""
    return path != own.path and os.path.lexists(path)


def _own_grant(
    files: FilePlan, isolation: Isolation, home: str | None, path: str, operation: Operation
) -> Grant | None:
    """Return the cage's own grant of a path: private directories, its home, devices, /proc."""
    caged = cage_files(files, isolation, sandbox=True, temporary=None, home=home)
    if isolation == "namespace":
        texts = network_texts("", transparent=True, granted=files.user_paths)
        caged = with_network_texts(caged, texts)
    own = caged.grants[len(files.grants) :]
    grants = tuple(Grant(one, access, is_file, "nono-trio") for one, access, is_file in own)
    return replace(files, grants=grants).covers(path, operation)


def _suggestion(
    options: RunOptions,
    isolation: Isolation,
    path: str,
    operation: Operation,
    lift: tuple[str, ...],
) -> tuple[str | None, str | None]:
    """The flags that would allow it, tried; or, where none would, what is in the way."""
    if isolation == "landlock" and (path == _PTMX or is_in(path, _PTS)):
        return f"--allow {_PTS} --allow-file {_PTMX}", None
    target = path
    while not os.path.exists(target):
        target = os.path.dirname(target)
    flag, files = _with_grant(options.files, target, operation)
    files = replace(files, bypass_protection=(*files.bypass_protection, *lift))
    try:
        allowed = resolve_files(replace(options, files=files), isolation)
    except UsageError as refused:
        return refused.hint, refused.message
    if allowed.covers(path, operation) is None and allowed.connects(path) is None:
        return None, None
    if isolation == "namespace" and allowed.hidden_link(path) is not None:
        return None, None
    lifts = [word for one in lift for word in ("--bypass-protection", one)]
    return shlex.join((*lifts, flag, target)), None


def _with_grant(files: FileOptions, target: str, operation: Operation) -> tuple[str, FileOptions]:
    """The narrowest flag for `target`, and the options with it."""
    if _is_socket(target):
        sockets = (*files.unix_sockets, target)
        return "--allow-unix-socket", replace(files, unix_sockets=sockets)
    if os.path.isdir(target):
        if operation == "read":
            return "--read", replace(files, read=(*files.read, target))
        return "--write", replace(files, write=(*files.write, target))
    if operation == "read":
        return "--read-file", replace(files, read_file=(*files.read_file, target))
    return "--write-file", replace(files, write_file=(*files.write_file, target))
