"""The variables of a run's command, put together: what is inherited, and what its cage changes.

Rules of this file: a granted socket keeps its own name wherever the home is, so it comes last. What
another file of the session decides is only called here: environment.py, fixed_places.py, homes/ and
trust/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nono_trio.core.policy.variables import inherit
from nono_trio.session.denials_file import VARIABLE as DENIALS_VARIABLE
from nono_trio.session.environment import (
    LOOPBACK,
    child_environment,
    socket_variables,
    terminal_variables,
)
from nono_trio.session.fixed_places import fixed_place_variables

if TYPE_CHECKING:
    from nono_trio.config.options import RunOptions
    from nono_trio.core.policy.variables import Inherited
    from nono_trio.sandbox.build_plan import CageFiles
    from nono_trio.sandbox.filesystem.plan import FilePlan
    from nono_trio.session.run_resources import RunResources


class CommandVariables(msgspec.Struct, frozen=True):
    """The command's environment; `before_home` names the user's home where the cage has its own."""

    inherited: Inherited
    before_home: dict[str, str]
    of_command: dict[str, str]


def command_variables(
    options: RunOptions,
    files: FilePlan,
    own: RunResources,
    caged: CageFiles,
    direct: str,
    *,
    dry: bool,
) -> CommandVariables:
    """Build the environment; `direct` is the value of NO_PROXY."""
    inherited = inherit(options.environment, options.variables)
    granted = {}
    if options.sandbox:
        granted = socket_variables(options.environment, options.variables, files)
    inherited.passed.update(granted)
    credentials = own.credentials
    if credentials is not None:
        inherited = credentials.inherited(inherited, options.environment, options.variables)
    variables = child_environment(
        inherited, given=options.set_variables, token=own.token, port=own.port, direct=direct
    )
    streams = [one.path for one in caged.mounts if one.kind == "stream"]
    of_command = (
        own.home.variables(variables, files)
        | _temporary_variables(options, files, own.temporary)
        | fixed_place_variables(variables, files, own.temporary, own_home=bool(own.home.plan))
        | terminal_variables(inherited.passed, streams)
        | granted  # by their own names, wherever the home is
    )
    if own.denials is not None:
        of_command[DENIALS_VARIABLE] = own.denials.path
    elif dry:  # a run has the file: its name is shown
        of_command[DENIALS_VARIABLE] = ""
    if own.trust is not None:
        of_command = own.trust.variables(of_command)
    if credentials is not None:
        of_command = credentials.variables(of_command)
    if dry and options.session.network.credentials:  # a run has all of them: names are shown
        from nono_trio.session.credentials.delivery import variable_names

        for one in options.session.network.credentials:
            of_command = dict.fromkeys(variable_names(one), "") | of_command
    routed = [one for one in options.session.network.credentials if one.route]
    if routed:
        from nono_trio.session.credentials.routes import route_variables

        of_command |= route_variables(routed, f"{LOOPBACK}:{own.port}")
    return CommandVariables(inherited, variables, of_command)


def _temporary_variables(
    options: RunOptions, files: FilePlan, temporary: str | None
) -> dict[str, str]:
    """Point programs to a temporary directory that they may use: the caller's, if granted."""
    inherited = options.set_variables.get("TMPDIR") or options.environment.get("TMPDIR")
    if inherited and (not options.sandbox or files.covers(inherited, "write")):
        return {}
    if temporary is None and inherited is None:
        return {}
    return dict.fromkeys(("TMPDIR", "TMP", "TEMP"), temporary or "/tmp")
