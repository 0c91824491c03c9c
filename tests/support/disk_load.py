"""A command line whose requests fill a disk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness import PROBES, PYTHON_GRANTS, Sessions

if TYPE_CHECKING:
    from harness import Origin


def load(sessions: Sessions, origin: Origin, count: int, *options: str) -> list[str]:
    return [
        "run", *options, *PYTHON_GRANTS, "--read", str(PROBES),
        "--allow-domain", f"api.example.com:{origin.port}",
        "--resolve", f"api.example.com:{origin.port}:127.0.0.1",
        "--", sys.executable, str(PROBES / "load.py"),
        f"http://api.example.com:{origin.port}", "4", str(count),
    ]  # fmt: skip
