"""`why`: may this be reached, by which rule, and which flag would change it.

Rules of this file: answers come from the policy and the file plan that enforce, never from a copy
of their rules; a flag is suggested only after the plan with that flag was made and allows what was
asked. Names are not resolved: what a name leads to is checked when it is dialled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from nono_trio.core.addresses import AddressClass, classify
from nono_trio.core.hosts import BadHost, parse_rule_host
from nono_trio.core.rules import ALLOW_FLAG, DENY_FLAG, is_localhost
from nono_trio.errors import UsageError
from nono_trio.sandbox.assemble import cage_files
from nono_trio.sandbox.places import is_below
from nono_trio.sandbox.plan import PRIVATE, Grant
from nono_trio.session.prepare import build_policy, preferred_isolation, resolve_files

if TYPE_CHECKING:
    from nono_trio.core.hosts import Host
    from nono_trio.core.policy import Verdict
    from nono_trio.sandbox.plan import FileOptions, FilePlan
    from nono_trio.sandbox.spawn import Isolation
    from nono_trio.session.options import RunOptions

Operation = Literal["read", "write"]

_UNRESOLVED = (
    "names are not resolved here: when it is dialled each address is checked too (metadata and"
    " link-local never, loopback and private ranges only for entries that mean them)"
)
_NO_ISOLATION = "--isolation none: the command can reach any network past the proxy and its rules"


@dataclass(frozen=True)
class Answer:
    """What holds; `rule` is the flag, entry or group that decided, `hint` what would change it."""

    subject: str
    allowed: bool
    reason: str
    rule: str | None = None
    hint: str | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def explain_host(options: RunOptions, text: str, port: int) -> Answer:
    """Say whether the cage's command may reach a host and port; raises UsageError for bad rules."""
    policy = build_policy(options.session.network)
    notes = (_NO_ISOLATION,) if options.isolation == "none" else ()
    try:
        host = parse_rule_host(text)
    except BadHost as fault:
        reason = f"a request for it is refused as malformed: {fault.reason}"
        return Answer(f"{text}:{port}", False, reason, notes=notes)
    subject = f"{host.bracketed()}:{port}"
    if port in options.open_ports and _is_loopback(host):
        reason = "the cage's own loopback port is relayed to the host's, and recorded"
        return Answer(subject, True, reason, f"--open-port {port}", notes=notes)
    verdict = policy.decide(host, port)
    addresses = policy.addresses(host, port)
    if addresses is None and host.address is not None:
        addresses = (host.name,)
    for address in addresses or ():
        checked = policy.check_address(host, port, address)
        verdict = checked if verdict.allowed else verdict
    if verdict.allowed and addresses is None:
        notes = (*notes, _UNRESOLVED)
    elif verdict.allowed and host.address is None:
        notes = (*notes, f"pinned to {', '.join(addresses or ())}")
    return _from_verdict(subject, verdict, notes)


def _is_loopback(host: Host) -> bool:
    if host.address is None:
        return is_localhost(host.name)
    return classify(host.address) is AddressClass.LOOPBACK


def _from_verdict(subject: str, verdict: Verdict, notes: tuple[str, ...]) -> Answer:
    reason = verdict.reason or "an entry allows it"
    flag = ALLOW_FLAG if verdict.allowed else DENY_FLAG
    rule = None if verdict.rule is None else f"{flag} {verdict.rule}"
    return Answer(subject, verdict.allowed, reason, rule, verdict.hint, notes)


def explain_path(options: RunOptions, text: str, operation: Operation) -> Answer:
    """Say whether the command may read or write a path; raises UsageError for refused grants."""
    path = os.path.abspath(os.path.expanduser(text))
    isolation = preferred_isolation(options)
    files = resolve_files(options, isolation)
    subject = f"{operation} {path}"
    if not options.sandbox:
        return Answer(subject, True, "the file sandbox is off", "--no-sandbox")
    notes = _path_notes(path)
    grant = files.covers(path, operation)
    if grant is not None:
        reason = f"granted: {grant.access} {'' if grant.is_file else 'below '}{grant.path}"
        answer = Answer(subject, True, reason, _rule(grant), notes=notes)
    else:
        answer = _without_grant(options, isolation, files, path, operation, notes)
    # Those about grants that were skipped; where the command starts is not what was asked.
    skipped = tuple(warning for warning in files.warnings if warning.endswith("skipped"))
    return replace(answer, warnings=skipped)


def _path_notes(path: str) -> tuple[str, ...]:
    notes = []
    real = os.path.realpath(path)
    if real != path:
        notes.append(f"a symlink leads on to {real}, which is what counts")
    if not os.path.lexists(path):
        notes.append("there is no such path now")
    return tuple(notes)


def _rule(grant: Grant) -> str:
    return f"{grant.source} {grant.path}" if grant.asked_for else grant.source


def _without_grant(
    options: RunOptions,
    isolation: Isolation,
    files: FilePlan,
    path: str,
    operation: Operation,
    notes: tuple[str, ...],
) -> Answer:
    """What a path is that nobody granted: the cage's own, protected, or just not there."""
    subject = f"{operation} {path}"
    own = _own_grant(files, isolation, path, operation)
    is_private = own is not None and isolation == "namespace" and own.path in PRIVATE
    if own is not None and not (is_private and _is_of_the_host(path, own)):
        reason = f"every cage may {operation} {own.path}"
        if isolation == "namespace":
            reason = f"{own.path} is the cage's own, not the host's"
        return Answer(subject, True, reason, "nono-trio", notes=notes)
    closed = _closed(files, path)
    lift = () if closed is None else (closed,)
    hint, obstacle = _suggestion(options, isolation, path, operation, lift)
    if obstacle is not None:
        notes = (*notes, obstacle)
    if closed is not None:
        reason = f"{closed} is protected (secrets or start-up files)"
        return Answer(subject, False, reason, "a deny rule", hint, notes)
    if own is not None:
        reason = f"the cage has a {own.path} of its own, in which the host's files are not"
        return Answer(subject, False, reason, "nono-trio", hint, notes)
    return Answer(subject, False, "no grant covers it", None, hint, notes)


def _is_of_the_host(path: str, own: Grant) -> bool:
    """Whether something of the host's is meant that a private directory hides."""
    return path != own.path and os.path.lexists(path)


def _own_grant(
    files: FilePlan, isolation: Isolation, path: str, operation: Operation
) -> Grant | None:
    """What the cage grants of itself: private directories, devices, its /proc."""
    caged = cage_files(files, isolation, sandbox=True, temporary=None)
    own = caged.grants[len(files.grants) :]
    grants = tuple(Grant(one, access, is_file, "nono-trio") for one, access, is_file in own)  # type: ignore[arg-type]  # the words of Access, as str for the launcher
    return replace(files, grants=grants).covers(path, operation)


def _closed(files: FilePlan, path: str) -> str | None:
    real = os.path.realpath(path)
    for closed in files.denied:
        behind = os.path.realpath(closed)
        if real == behind or is_below(real, behind):
            return closed
    return None


def _suggestion(
    options: RunOptions,
    isolation: Isolation,
    path: str,
    operation: Operation,
    lift: tuple[str, ...],
) -> tuple[str | None, str | None]:
    """The flags that would allow it, tried; or, where none would, what is in the way."""
    target = path
    while not os.path.exists(target):
        target = os.path.dirname(target)
    flag, files = _with_grant(options.files, target, operation)
    files = replace(files, bypass_protection=(*files.bypass_protection, *lift))
    try:
        allowed = resolve_files(replace(options, files=files), isolation).covers(path, operation)
    except UsageError as refused:
        return refused.hint, refused.message
    if allowed is None:
        return None, None
    return " ".join((*(f"--bypass-protection {one}" for one in lift), f"{flag} {target}")), None


def _with_grant(files: FileOptions, target: str, operation: Operation) -> tuple[str, FileOptions]:
    """The narrowest flag for `target`, and the options with it."""
    if os.path.isdir(target):
        if operation == "read":
            return "--read", replace(files, read=(*files.read, target))
        return "--write", replace(files, write=(*files.write, target))
    if operation == "read":
        return "--read-file", replace(files, read_file=(*files.read_file, target))
    return "--write-file", replace(files, write_file=(*files.write_file, target))
