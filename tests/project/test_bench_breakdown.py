"""The breakdown of CPU time: samples get the right name, and the tables their lines."""

from __future__ import annotations

import sys

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))
from bench_breakdown import Broken, as_markdown, layer_of, part_of

SEND = """
\tffffffff81c3faaa tcp_ack ([kernel.kallsyms])
\tffffffff816b795d __x64_sys_sendto ([kernel.kallsyms])
\tffffffff821ef691 do_syscall_64 ([kernel.kallsyms])
\t          1019b3 __send (/usr/lib/libc.so.6)
"""


@pytest.mark.parametrize(
    ("stack", "part"),
    [
        (SEND, "kernel: `sendto`"),
        ("\tffffffff81000130 asm_exc_page_fault ([kernel.kallsyms])",
         "kernel: interrupts, faults, entry and exit"),
        ("\t  5ab2 _PyEval_EvalFrameDefault (/usr/bin/python3.11)", "the interpreter"),
        ("\t  5ab2 visit_decref (/usr/bin/python3.11)", "garbage collection"),
        ("\t  5ab2 mpack_encode (/lib/msgspec/_core.so)", "msgspec"),
        ("\t  5ab2 memcpy (/usr/lib/libc.so.6)\n\t  1 run (/usr/bin/python3)", "libc and others"),
        ("", "libc and others"),
    ],
)  # fmt: skip
def test_a_sample_belongs_to_its_system_call_or_to_a_file(stack: str, part: str) -> None:
    assert part_of(stack) == part


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        ("trio/_core/_run.py:unrolled_run", "trio: scheduler, channels, scopes"),
        ("nono_trio/audit/write/recorder.py:record", "record"),
        ("nono_trio/audit/write/record_queue.py:put", "record"),
        ("nono_trio/core/http/field_block.py:keep", "parse and rewrite heads"),
        ("nono_trio/task_turns.py:wake", "the dispatcher's steps"),
        ("nono_trio/proxy/http/rewrite.py:rewritten", "parse and rewrite heads"),
        ("nono_trio/proxy/http/connection.py:run", "a connection's order of acts, flows"),
        ("the interpreter", "the interpreter"),
    ],
)
def test_a_place_belongs_to_a_layer(place: str, layer: str) -> None:
    assert layer_of(place) == layer


def test_the_largest_line_comes_first_and_small_ones_are_left_out() -> None:
    broken = {
        "a": Broken({"x": 0.2, "y": 0.004}, {"read": 1.5}, {"record": 1.0}),
        "b": Broken({"z": 0.7}, {}, {}),
    }
    assert [line for line in as_markdown(broken).splitlines() if not line.startswith("| ---")] == [
        "| CPU | a | b |",
        "| z |  | 70% |",
        "| x | 20% |  |",
        "",
        "| the main thread, all | a | b |",
        "| record | 100% |  |",
        "",
        "| system calls | a | b |",
        "| read | 1.50 |  |",
    ]
