"""Every console block of the README is run, and must print what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

ROOT = ROOT
BLOCKS = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)

# Differs from run to run: ids, hashes, times, pids, the order of two equal denials.
CHANGING = (
    (r"\b[0-9a-f]{64}\b", "<hash>"),
    (r"\b[0-9a-f]{16}\b", "<session>"),
    (r"\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d)?", "<time>"),
    (r"\d{4}-\d\d-\d\d", "<date>"),
    (r"kill -9 \d+", "kill -9 <pid>"),
    # The demo takes other ports where another demo has these.
    (r"\b(api|registry)\.example\.com:\d+", r"\1.example.com:<port>"),
    (r"\b127\.0\.0\.1:\d{4,5}\b", "127.0.0.1:8080"),
    (r"loopback at port \d+,(.*--open-port) \d+", r"loopback at port 8080,\1 8080"),
    (r"/tmp/nono-trio-demo[-\w]*", "<demo>"),
    (r"(ran|in) \d+\.\d s", r"\1 <seconds>"),
    (r"\d+ records, never sealed", "<n> records, never sealed"),
    # Denied files are seen if the user can open /dev/fuse; which ones depends on the machine.
    (r"cage +look-ups of files .*", "cage <look-ups>"),
    (r"\n +files +\d+ not granted: .*", ""),
    (r"\b\d+ records, sealed", "<n> records, sealed"),
    (r"records +\d+ in ", "records <n> in "),
    (r"up to sequence \d+", "up to sequence <n>"),
    (r"\d+ B\b|\d+(\.\d)? kB\b", "<bytes>"),
    (r"Landlock (ABI )?V\d", r"Landlock \1<abi>"),
    # The carrier of the limit, if there is one, is the machine's and the user's.
    (r"cage +(at most \d+ processes( of the user)?|no limit on processes.*)", "cage <processes>"),
    (r"/(home/\w+|root|\S*/home)/\.ssh", "<home>/.ssh"),
    (r"-- \S*python\S* agent", "-- <python> agent"),
    (r"command +\S*python\S*", "command <python>"),
    (r"checkpoints +\d+, the last at sequence \d+, all match", "checkpoints <n>, all match"),
    # A row of programs, and the width of its first column.
    (r"\n\(gone before it was found\).*", ""),
    (r"PROGRAM +DENIED.*\n", "PROGRAM\n"),
    (r"(\d+ +)+[0-9a-f]{12} +/\S+", "<counts>"),
    (r"\bpython3(\.\d+)?\b", "python"),
    # Which files a policy group names, and which variables are set, is the machine's as well.
    (r"\b\d+ more (by policy groups )?\(all with --json\)", r"<n> more \1(all with --json)"),
    (r"passed +[A-Z_, ]+\n", "passed <names>\n"),
    # The record of what the kernel refuses follows when it can; its program may be gone by then.
    (r"<time> deny +connect +(127\.0\.0\.1:8080|192\.0\.2\.53:443) .*\n", ""),
    (r", 192\.0\.2\.53\)", ")"),
    (r"<time> deny +file .*\n", ""),
    (r"nono-trio: \d+ files? not granted: .*\n", ""),
    (r"agent\.py +\d+ +4 +1 ", "agent.py <n> 4 1 "),
    (r"\(gone before it was found\) .*\n", ""),
    (r" +", " "),
)


def normalised(text: str) -> list[str]:
    """The lines without what changes; a crashed run that lived long enough has checkpoints."""
    head, crash, tail = text.partition("\ncrashed ")
    text = head + crash + re.sub(r"\n +checkpoints .*", "", tail)
    for pattern, replacement in CHANGING:
        text = re.sub(pattern, replacement, text)
    return text.strip().splitlines()


def by_stream(lines: list[str]) -> tuple[list[str], list[str]]:
    """The agent's lines and ours: two streams, whose order against each other is open."""
    agent = [line for line in lines if line.startswith("agent:")]
    return agent, [line for line in lines if not line.startswith("agent:")]


def commands(block: str) -> list[tuple[str, str]]:
    """The commands of a block, each with the output that is shown under it."""
    if block.startswith("$ ./scripts/demo"):
        command, _, output = block.removeprefix("$ ").partition("\n")
        return [(command, output)]
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), ""))
        else:
            command, output = found[-1]
            found[-1] = (command, output + line + "\n")
    return found


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n", 1)[0][2:40])
def test_console_block(block: str, tmp_path: Path) -> None:
    if "curl" in block and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    environment = {
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "NONO_TRIO_STATE_DIR": str(tmp_path / "state"),
    }
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    # scripts/ and .venv belong to the checkout; everything else is run in a project of its own.
    directory = ROOT if "scripts/" in block else tmp_path / "project"
    script = "\n".join(f"{command}; echo end-of-command" for command, _ in commands(block))
    script = script.replace(
        "; echo end-of-command\necho $?", "; code=$?; echo end-of-command; (exit $code)\necho $?"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False,
    )  # fmt: skip
    printed = done.stdout.split("end-of-command\n")
    for (command, shown), got in zip(commands(block), printed, strict=False):
        assert by_stream(normalised(got)) == by_stream(normalised(shown)), command


def test_the_readme_has_blocks() -> None:
    assert len(BLOCKS) >= 4
