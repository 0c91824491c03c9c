"""The count of Python instructions of a request, of a real proxy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from checkout import ROOT

sys.path.append(str(ROOT / "scripts"))
import bench_opcodes
from bench_load import build_tools, find_compiler, origin
from bench_loads import LOADS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.skipif(find_compiler() is None, reason="no C compiler (cc): the load is a C program")
def test_a_denied_request_is_counted_by_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_opcodes, "COUNTED", 40)
    build_tools(tmp_path)
    [load] = [one for one in LOADS if one.mode == "deny"]
    with origin(tmp_path) as port:
        found = bench_opcodes.count(tmp_path, port, load)
    calls = {one.place: one.calls for one in found}
    assert calls["nono_trio/proxy/access/decision.py:Decision.event"] == 1
    assert found == sorted(found, key=lambda one: -one.instructions)
    assert 100 < sum(one.instructions for one in found) < 100_000
