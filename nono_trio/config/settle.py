"""From the parameters of a command to the options of a session: one settled value each.

Rules of this file: what flags, environment and profiles say together is put together before
(resolve.py); an options field that has the name of a parameter gets its value as it is, and only
what is built or converted is written out here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from nono_trio.audit.store import LATEST, state_root
from nono_trio.config.options import (
    AuditOptions,
    Limits,
    NetworkOptions,
    RunOptions,
    SessionOptions,
)
from nono_trio.config.resolve import choose
from nono_trio.config.secret import read_secret, secret_variable
from nono_trio.core.policy.home_choice import FLAG, HomeChoice, parse_home
from nono_trio.core.policy.judging import Judging, check_tripwire, parse_expected
from nono_trio.core.policy.rule import parse_deny
from nono_trio.core.profile.fields import FIELDS, flag_of
from nono_trio.core.profile.size import parse_size
from nono_trio.errors import UsageError
from nono_trio.posix.account import expand_home
from nono_trio.sandbox.filesystem.plan import FileOptions
from nono_trio.startup import caller_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nono_trio.config.options import Given
    from nono_trio.config.resolve import Chosen
    from nono_trio.core.policy.upstream_proxy import UpstreamProxy
    from nono_trio.core.policy.variables import VariableRules

Options = TypeVar("Options")

MAX_NAME = 64  # of a session: a column of a table
_NAME_MARKS = "._-"


def settle_run(command: Sequence[str], given: Given) -> RunOptions:
    """Return the options of `run`; raises UsageError for an invalid one."""
    chosen = choose(given)
    values = _converted(chosen.given)
    return _fill(
        RunOptions,
        values,
        command=command,
        session=_session(chosen, values),
        files=_fill(
            FileOptions,
            values,
            unix_sockets=values["allow_unix_socket"],
            deny=[*values["deny"], *chosen.deny],
            bypass_protection=[*values["bypass_protection"], *chosen.bypass],
            profile=chosen.requests,
            configuration=chosen.configuration,
        ),
        sandbox=not values["no_sandbox"],
        transparent={"on": True, "off": False, None: None}[values["transparent"]],
        attribution=values["attribution"] != "off",
        open_ports=values["open_port"],
        listen_ports=values["listen_port"],
        limits=_fill(Limits, values),
        timeout_seconds=values["timeout"],
        environment=caller_environment(),
        variables=_variables(chosen, values),
        set_variables=chosen.set_variables,
        notes=chosen.notes,
        home=_home(chosen),
        judging=_judging(values),
    )


def settle_proxy(given: Given) -> tuple[SessionOptions, Sequence[str]]:
    """Return the options of `proxy`, and warnings about them; raises UsageError."""
    chosen = choose(given)
    return _session(chosen, _converted(chosen.given)), chosen.notes


def _fill(kind: type[Options], values: Mapping[str, Any], **own: Any) -> Options:  # noqa: ANN401  (as the fields have it)
    """Make a `kind` of `own` and of the parameters that have the names of its other fields."""
    names = kind.__annotations__.keys() & values.keys()
    return kind(**{name: values[name] for name in names} | own)


def _converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn sizes into bytes; flags and profiles give them as text."""
    converted = dict(values)
    for declared in FIELDS:
        name = declared.parameter
        if declared.kind == "size" and name is not None and converted.get(name) is not None:
            try:
                converted[name] = parse_size(converted[name])
            except UsageError as error:
                raise UsageError(f"{flag_of(name)}: {error.message}", hint=error.hint) from None
    return converted


def _session(chosen: Chosen, values: Mapping[str, Any]) -> SessionOptions:
    """Build what `run` and `proxy` share."""
    if values["name"] is not None:
        check_name(values["name"])
    return _fill(
        SessionOptions,
        values,
        network=_fill(
            NetworkOptions,
            values,
            allow=values["allow_domain"],
            deny=values["deny_domain"],
            block=values["block_net"],
            upstream_proxy=_upstream_proxy(values),
            endpoints=values["endpoint"],
            sources=chosen.sources,
            host_files=chosen.host_files,
            credentials=chosen.credentials,
        ),
        audit=AuditOptions(
            state_root=state_root(values["audit_dir"], os.environ),
            mode=values["audit_mode"],
            sync=values["audit_sync"],
            queue=values["audit_queue"],
            sign_key=values["audit_sign_key"],
            anchor_command=values["anchor_command"],
            witnesses=_witnesses(values),
            keeps_log=not values["no_audit"],
        ),
        grace_seconds=values["grace"],
        profiles=chosen.profiles,
    )


def _witnesses(values: Mapping[str, Any]) -> Sequence[str]:
    """Return the witnesses, once it is sure that there is something for them to sign."""
    for name in ("anchor_command", "witness"):
        if values[name] and values["audit_sign_key"] is None:
            raise UsageError(
                f"{flag_of(name)} needs --audit-sign-key: it gets signed checkpoints",
                hint="`nono-trio keys generate` makes one, for --audit-sign-key default",
            )
    found: Sequence[str] = values["witness"]
    return found


def _upstream_proxy(values: Mapping[str, Any]) -> UpstreamProxy | None:
    url, reference = values["upstream_proxy"], values["upstream_proxy_password"]
    if url is None:
        for name in ("upstream_proxy_password", "upstream_bypass"):
            if values[name]:
                raise UsageError(
                    f"{flag_of(name)} needs --upstream-proxy", hint="name the proxy as well"
                )
        return None
    from nono_trio.core.policy.upstream_proxy import (  # late: few sessions have one
        PASSWORD_FLAG,
        parse_upstream_proxy,
    )

    password = None if reference is None else read_secret(PASSWORD_FLAG, reference, os.environ)
    return parse_upstream_proxy(url, values["upstream_bypass"], password, os.environ)


def _variables(chosen: Chosen, values: Mapping[str, Any]) -> VariableRules:
    """The rules for what is passed on: no variable that has a secret of ours."""
    rules = chosen.variables
    keys = (files.key for files in chosen.host_files.values())
    credentials = (text for one in chosen.credentials for text in one.references)
    for reference in (values["upstream_proxy_password"], *keys, *credentials):
        rules = rules.without(secret_variable(reference))
    return rules


def _judging(values: Mapping[str, Any]) -> Judging:
    """Return what makes the run fail. Each path is in it as given, and without symlinks."""
    directory = os.path.abspath(expand_home(values["workdir"] or ""))
    paths = [os.path.join(directory, expand_home(path)) for path in values["fail_on_path"]]
    both = dict.fromkeys(
        one for path in paths for one in (os.path.normpath(path), os.path.realpath(path))
    )
    for one in both:
        check_tripwire(one)
    if values["observe"] and values["block_net"]:
        raise UsageError(
            "--observe lets hosts through, --block-net lets none through", hint="drop one of them"
        )
    if values["observe"] and (values["fail_on"] or values["fail_on_deny"]):
        raise UsageError(
            "--observe lets through what --fail-on-deny fails for",
            hint="observe first, then run with the profile of `nono-trio audit learn`",
        )
    return Judging(
        fail_on=values["fail_on"] or ("policy" if values["fail_on_deny"] else None),
        expected=parse_expected(values["expect_deny"]),
        paths=tuple(both),
        deny_list=tuple(map(parse_deny, values["deny_domain"])),
    )


def _home(chosen: Chosen) -> HomeChoice:
    given = chosen.given["home"]
    if given is None:
        return HomeChoice(profile=chosen.profile, seeds=chosen.seeds)
    source = chosen.sources.get("home", {}).get("", FLAG)
    kind, name = parse_home(given)
    return HomeChoice(kind, name, source, chosen.profile, chosen.seeds)


def check_name(name: str) -> None:
    """Raise UsageError for an invalid session name, or one with a meaning of its own."""
    if name == LATEST:
        raise UsageError(
            f"--name: {LATEST} stands for the newest session", hint="give another name"
        )
    if 0 < len(name) <= MAX_NAME and all(c.isalnum() or c in _NAME_MARKS for c in name):
        return
    fitting = "".join(c if c.isalnum() or c in _NAME_MARKS else "-" for c in name)[:MAX_NAME]
    raise UsageError(
        f"--name: expected 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, got"
        f" {name!a}",
        hint=f"--name {fitting}" if fitting else "--name build-7",
    )
