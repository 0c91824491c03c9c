"""`nono-trio completion`: the script that makes a shell complete our commands, and its answers.

The shell runs `nono-trio` with COMPLETE_VARIABLE at each Tab. Rules of this file: an answer imports
the command that is being completed and no other one, neither the loop nor the cage; it writes
nothing, and an error leaves the line as it is. Session ids are the names of directories that have
the form of one, so a shell can take them as they are.
"""

from __future__ import annotations

import os
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from nono_trio.cli.parameters import OneOf
from nono_trio.errors import NonoTrioError

SHELLS: Final = ("bash", "zsh", "fish")
PROGRAM: Final = "nono-trio"
# As click names it; its value is SHELL_complete.
COMPLETE_VARIABLE: Final = "_NONO_TRIO_COMPLETE"
# A ~/.zshrc that has no compinit has no compdef either, which click's script calls.
_ZSH_COMPINIT: Final = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
# Click's own cuts a description at its first comma.
_FISH: Final = """\
function %(complete_func)s
    for completion in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \\
            COMP_CWORD=(commandline -t) %(prog_name)s)
        set -l found (string split --max 1 , -- $completion)
        switch $found[1]
            case dir
                __fish_complete_directories $found[2]
            case file
                __fish_complete_path $found[2]
            case plain
                printf '%%s\\n' $found[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


@click.command(epilog='Example: eval "$(nono-trio completion bash)"')
@click.argument("shell", type=OneOf(SHELLS), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print a script that makes a shell complete commands, flags, files and session ids.

    For every shell from now on: add the line of the example to ~/.bashrc, or with zsh to ~/.zshrc;
    with fish, `mkdir -p ~/.config/fish/completions` and
    `nono-trio completion fish > ~/.config/fish/completions/nono-trio.fish`.
    """
    made = _made(click.Group(), shell)
    template = _FISH if shell == "fish" else made.source_template
    if shell == "zsh":  # the first line is for compinit
        compdef, _, rest = template.partition("\n")
        template = f"{compdef}\n{_ZSH_COMPINIT}\n{rest}"
    click.echo(template % made.source_vars(), nl=False)


def answer(cli: click.Group, asked: str) -> int:
    """Print the completions of the line that the shell has in its variables; return the exit code.

    `asked` is the value of COMPLETE_VARIABLE.
    """
    shell, _, instruction = asked.partition("_")
    if shell not in SHELLS or instruction != "complete":
        return 1
    # The line to complete; click would end in a KeyError without them.
    if not {"COMP_WORDS", "COMP_CWORD"} <= os.environ.keys():
        return 1
    try:
        click.echo(_made(cli, shell).complete())
    except (ValueError, OSError, NonoTrioError, KeyboardInterrupt):  # the line stays as it is
        return 1
    return 0


def _made(cli: click.Group, shell: str) -> ShellComplete:
    found = get_completion_class(shell)
    if found is None:
        raise AssertionError(f"click has no completion for {shell}")
    return found(cli, {}, PROGRAM, COMPLETE_VARIABLE)
