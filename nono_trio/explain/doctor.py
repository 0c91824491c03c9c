"""Try whether `run` works on this machine, and in which isolation, with cages as runs have them.

Rules: the cages that are tried come from `prepare_run`, so what is found holds for real runs;
nothing is executed in them and nothing is recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from nono_trio.core.credentials.credential import KEYRING_EXTRA
from nono_trio.errors import CageFailed, NonoTrioError
from nono_trio.sandbox import probe
from nono_trio.sandbox.launcher.nono_py import library_path, load_library
from nono_trio.sandbox.probe import Check
from nono_trio.sandbox.spawn import ConnectBrokerRefused, NamespacesRefused, TransparentRefused
from nono_trio.session.platforms import preferred_isolation
from nono_trio.session.prepare import prepare_run
from nono_trio.session.processes import TOKEN_VARIABLE
from nono_trio.session.trust.trust_report import trust_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nono_trio.config.options import RunOptions
    from nono_trio.sandbox.launcher.cage_plan import CagePlan, Isolation


TRUST = "session's authority"


def examine(options: RunOptions) -> list[Check]:
    """Look at everything that isolation rests on, in the order in which a run needs it.

    `options` are those of a run of something harmless. Raises CageFailed on a system without a
    cage.
    """
    on_macos = preferred_isolation(options) == "seatbelt"
    checks = [] if on_macos else [probe.check_kernel()]
    try:
        library = load_library(library_path())
    except ImportError as error:
        return [*checks, Check("nono-py", "missing", str(error), fix="pip install nono-py")]
    if on_macos:
        seatbelt = probe.check_seatbelt(try_isolation(options, "seatbelt"))
        return [*seatbelt, probe.check_limits(), probe.check_own_code()]
    checks.append(probe.check_landlock(library))
    failed = try_isolation(options, "namespace")
    if isinstance(failed, TransparentRefused):
        fix = "kernel routes for local addresses; `--transparent off` runs without"
        checks.append(Check("transparent network", "missing", failed.text, False, fix))
        failed = try_isolation(replace(options, transparent=False), "namespace")
    inside_cage = TOKEN_VARIABLE in options.environment
    checks += probe.check_namespaces(failed, inside_cage=inside_cage)
    if failed is None:
        checks.append(Check("cage", "ok", "built whole: capabilities dropped, Landlock applied"))
    elif not isinstance(failed, NamespacesRefused):
        checks.append(Check("cage", "missing", failed.message, fix=failed.hint))
    isolation: Isolation = "namespace" if failed is None else "landlock"
    checks.append(_check_seen(options, isolation, "denied files", probe.check_denied_files))
    checks.append(_check_seen(options, isolation, "refused attempts", probe.check_refused_attempts))
    failed = try_isolation(options, "landlock")
    broker = probe.check_connect_broker(failed)
    if isinstance(failed, ConnectBrokerRefused):
        failed = try_isolation(replace(options, brokered=False), "landlock")
    checks += [probe.check_fallback(failed, library), broker]
    return [
        *checks,
        probe.check_attribution(),
        _check_trust(options.environment),
        check_keyring(),
        probe.check_pidfd(),
        probe.check_cgroup(),
        probe.check_limits(),
        probe.check_own_code(),
    ]


def _check_seen(
    options: RunOptions, isolation: Isolation, name: str, check: Callable[[CagePlan], Check]
) -> Check:
    try:
        prepared = prepare_run(options, isolation, dry=True)
    except NonoTrioError as error:  # no word about the sight itself
        return Check(name, "unknown", error.message, required=False)
    try:
        return check(prepared.plan)
    finally:
        prepared.resources.close()


def _check_trust(environment: Mapping[str, str]) -> Check:
    """Say which programs trust the session's authority where hosts are intercepted."""
    report = trust_report(environment)
    trusting = ", ".join(report.trusting) or "no program that is known"
    others = f"; not: {', '.join(report.not_trusting)}" if report.not_trusting else ""
    places = ", ".join(report.places)
    if not places:
        found = f"no file of root certificates here; variables alone lead to it: {trusting}{others}"
        return Check(TRUST, "missing", found, required=False, fix="install ca-certificates")
    found = f"where hosts are intercepted, {trusting} trust it, by variables and {places}{others}"
    return Check(TRUST, "ok", found, required=False)


def check_keyring() -> Check:
    """Say whether secrets can come from keyring://; the keyring itself is not asked."""
    from importlib.util import find_spec

    if find_spec("keyring") is None:
        fix = f"pip install '{KEYRING_EXTRA}'"
        found = (
            "the library keyring is missing, so no credential can have keyring://, and the"
            " tokens of logins are not sealed"
        )
        return Check("keyring", "missing", found, required=False, fix=fix)
    found = "a credential can have keyring:// (`keyring --list-backends` shows what answers it)"
    return Check("keyring", "ok", found, required=False)


def best_isolation(checks: Sequence[Check]) -> Isolation | None:
    """Return what `auto` takes on a machine with these findings; None if no cage can be built."""
    if not any(check.degrades for check in checks):
        return "namespace"
    works = {check.name for check in checks if check.state == "ok"}
    if probe.SEATBELT in works:
        return "seatbelt"
    return "landlock" if probe.FALLBACK in works else None


def try_isolation(options: RunOptions, isolation: Isolation) -> CageFailed | None:
    """Build the cage that `run` would, and end it; return why it can't be built, None if it can."""
    try:
        prepared = prepare_run(options, isolation, dry=True)
    except CageFailed as failed:
        return failed
    except NonoTrioError as error:  # a machine without `true`: no word about the cage itself
        return CageFailed(error.message, hint=error.hint)
    try:
        return probe.try_cage(prepared.plan)
    finally:
        prepared.resources.close()


def chosen_isolation(options: RunOptions) -> Isolation:
    """Return the isolation of a run: `auto` takes namespaces unless this machine refuses them.

    Raises CageFailed where the cage can't be built, UsageError and CommandNotFound as
    `prepare_run`.
    """
    first = preferred_isolation(options)
    prepared = prepare_run(options, first, dry=True)
    try:
        failed = probe.try_cage(prepared.plan)
    finally:
        prepared.resources.close()
    if failed is None or (isinstance(failed, TransparentRefused) and not options.transparent):
        return first
    if isinstance(failed, NamespacesRefused) and options.isolation == "auto":
        return "landlock"
    raise failed
