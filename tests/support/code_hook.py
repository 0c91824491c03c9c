"""Run the command line with an audit hook in it and in its launcher that lists the opened files."""

from __future__ import annotations

_HOOK = """
import os, sys
def hook(event, arguments, told=[]):
    if event not in ("open", "import", "ctypes.dlopen") or told:
        return
    told.append(1)
    try:
        names = [one for one in arguments[:2] if isinstance(one, str) and os.path.isabs(one)]
        file = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, "".join(name + chr(10) for name in names).encode())
        os.close(file)
    except OSError:  # the launcher, in the cage's own view
        pass
    finally:
        told.clear()
sys.addaudithook(hook)
"""
_COMMAND = """
from nono_trio import entry, startup
startup.begin()
if sys.argv[1] == "run":
    from nono_trio.sandbox import spawn
    spawn.BOOTSTRAP = {hook!r} + spawn.BOOTSTRAP
entry.main()
"""


def hooked_launcher(log: str) -> str:
    """The command line as a program; only its launcher lists what it opens."""
    return "import sys\n" + _COMMAND.format(hook=_HOOK.format(log=log))


def hooked_command(log: str) -> str:
    """The command line as a program; it and its launcher list what they open."""
    hook = _HOOK.format(log=log)
    return hook + _COMMAND.format(hook=hook)
