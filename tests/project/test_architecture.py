"""docs/architecture.md names places of the code: each of them exists."""

from __future__ import annotations

import re

import pytest
from checkout import ROOT

PAGE = ROOT / "docs" / "architecture.md"
FOLDERS = (
    "nono_trio",
    "nono_trio/proxy",
    "nono_trio/sandbox",
    "nono_trio/sandbox/launcher",
    "nono_trio/audit",
    "",
)
PATHS = sorted(set(re.findall(r"[\w./-]*\w\.(?:py|md)\b", PAGE.read_text("utf-8"))))


def test_the_page_names_many_places() -> None:
    assert len(PATHS) > 40


@pytest.mark.parametrize("path", PATHS)
def test_each_file_that_it_names_exists(path: str) -> None:
    found = [one for one in FOLDERS if (ROOT / one / path).exists()]
    assert found or any(ROOT.glob(f"nono_trio/**/{path}")), path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("_serve_request", "proxy/http/connection.py"),
        ("_run_tunnel", "proxy/connection_handler.py"),
        ("CheckedAddress", "proxy/upstream/resolver.py"),
        ("class TaskPool", "proxy/listeners/task_pool.py"),
        ("class Transport", "proxy/transport/transport.py"),
        ("def receive_plan", "sandbox/launcher/steps.py"),
        ("def build_view", "sandbox/launcher/linux/mounts.py"),
        ("MountKind", "sandbox/launcher/cage_plan.py"),
        ("def prepare_run", "session/prepare.py"),
        ("def _append", "audit/write/writer.py"),
    ],
)
def test_each_name_is_where_the_page_says(name: str, path: str) -> None:
    assert name in (ROOT / "nono_trio" / path).read_text("utf-8")
