"""`nono-trio completion`: its scripts in real shells, and what an answer costs."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import sealed_session as made
from harness import NONO_TRIO, RUN_SECONDS
from terminals import Terminal

ID, OTHER = "00aa000000000001", "00aa000000000002"
HEAVY = {"trio", "cryptography", "nono_py", "rich", "multiprocessing", "ssl", "nono_trio.session"}
# In bash: what Tab would offer after each of the lines.
TABS = """
compopt() { :; }  # only the shell's own completion may call it
eval "$(nono-trio completion bash)"
while read -r -a COMP_WORDS; do
    [ "${COMP_WORDS[-1]}" = TAB ] && COMP_WORDS[-1]=
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    _nono_trio_completion nono-trio
    echo "${COMPREPLY[*]}"
done
complete -p nono-trio
"""
LINES = {
    "nono-trio au": "audit",
    "nono-trio audit verify 00": f"{ID} {OTHER}",
    "nono-trio audit show TAB": f"latest {ID} {OTHER}",
    "nono-trio inspect 00aa000000000002": OTHER,
    "nono-trio run --allow-dom": "--allow-domain",
    "nono-trio run --isolation n": "namespace none",
    "nono-trio run -p de": "default developer",
    "nono-trio run -- ls --al": "",
    "nono-trio nothing x": "",
    "nono-trio audit show --audit-dir s3://x TAB": "latest",
}


@pytest.fixture
def environment(tmp_path):
    for name in (ID, OTHER):
        made.build(tmp_path / "audit", name)
    (tmp_path / "audit" / "no session; rm").mkdir()
    path = f"{os.path.dirname(NONO_TRIO)}:{os.environ['PATH']}"
    return {"PATH": path, "NONO_TRIO_STATE_DIR": str(tmp_path), "HOME": str(tmp_path)}


def output_of(words, environment, **more):
    return subprocess.run(
        words, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, **more
    )


def test_bash_completes_commands_flags_values_and_session_ids(environment):
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    done = output_of([bash, "-c", TABS], environment, input="\n".join([*LINES, ""]))
    *answers, registered = done.stdout.splitlines()
    assert dict(zip(LINES, answers, strict=True)) == LINES
    assert registered.endswith("-F _nono_trio_completion nono-trio")
    assert done.stderr == ""


# A ~/.zshrc with the one line that the help names, and a key that shows and clears the line.
ZSHRC = """
PS1='ready> '
eval "$(nono-trio completion zsh)"
shown() { print -r -- "<$BUFFER>"; BUFFER= }
zle -N shown
bindkey '^O' shown
"""
TYPED = {
    "au": "audit ",
    "audit show la": "audit show latest ",
    f"audit verify {OTHER[:-1]}2": f"audit verify {OTHER} ",
    "run --allow-dom": "run --allow-domain ",
    "run -- cat .zshr": "run -- cat .zshrc ",
}


def test_tab_in_zsh(environment, tmp_path):
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("zsh is not installed")
    (tmp_path / ".zshrc").write_text(ZSHRC)
    environment |= {"TERM": "dumb", "ZDOTDIR": str(tmp_path), "SKIP_GLOBAL_COMPINIT": "1"}
    keyboard = SimpleNamespace(home=tmp_path, environment=environment)
    terminal = Terminal(keyboard, "--no-global-rcs", "-i", program=(zsh,))
    terminal.wait_for("ready> ")
    for typed, completed in TYPED.items():
        terminal.type(f"nono-trio {typed}\t\x0f")
        terminal.wait_for(f"<nono-trio {completed}>")
    terminal.type("exit\r")
    assert terminal.exit_code() == 0
    assert "not found" not in terminal.seen


def test_tab_in_fish(environment, tmp_path):
    fish = shutil.which("fish")
    if fish is None:
        pytest.skip("fish is not installed")
    (tmp_path / "notes.txt").touch()
    asked = ["au", "audit show ", "run -- cat no"]
    script = f"""
    nono-trio completion fish | source
    for line in {shlex.join(asked)}
        complete -C "nono-trio $line"
    end
    """
    done = output_of([fish, "--no-config", "-c", script], environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["audit", "List, show, follow and verify the audit logs of sessions."],
        [ID],
        [OTHER],
        ["latest"],
        ["notes.txt"],
    ]


@pytest.mark.parametrize(
    ("shell", "words", "at"),
    [("zsh", "nono-trio stop 00aa", "2"), ("fish", "nono-trio stop 00aa", "00aa")],
)
def test_what_the_scripts_of_other_shells_ask_is_answered(environment, shell, words, at):
    asked = {"COMP_WORDS": words, "COMP_CWORD": at, "_NONO_TRIO_COMPLETE": f"{shell}_complete"}
    done = output_of([NONO_TRIO], environment | asked)
    assert [one for one in (ID, OTHER) if one in done.stdout] == [ID, OTHER]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", ["audit verify ", "run --"])
def test_an_answer_imports_neither_the_loop_nor_the_cage(environment, line):
    code = (
        "import sys; from nono_trio.cli.completion import answer;"
        " from nono_trio.cli.main import cli; code = answer(cli, 'bash_complete');"
        " print('modules', *sys.modules); sys.exit(code)"
    )
    words = f"nono-trio {line}"
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    done = output_of([sys.executable, "-c", code], environment | asked)
    modules = {*done.stdout.splitlines()[-1].split()}
    assert (done.returncode, done.stderr) == (0, "")
    assert not modules & HEAVY


@pytest.mark.parametrize("asked", ["bash_complete", "tcsh_complete"])
def test_a_variable_that_no_shell_set_completes_nothing(environment, asked):
    done = output_of([NONO_TRIO], environment | {"_NONO_TRIO_COMPLETE": asked})
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = output_of([NONO_TRIO, "--version"], environment | {"_NONO_TRIO_COMPLETE": asked})
    assert done.stdout.startswith("nono-trio ")


def test_a_shell_that_is_missing_is_told_in_one_line(run):
    assert run("completion") == (
        2,
        "",
        "nono-trio: error: missing argument 'bash|zsh|fish'\n"
        "hint: see `nono-trio completion --help`\n",
    )
