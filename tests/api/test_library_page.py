"""docs/library.md: its example runs exactly as it stands, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from checkout import ROOT

PAGE = (ROOT / "docs" / "library.md").read_text("utf-8")
[EXAMPLE] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
[PRINTED] = re.findall(r"^```text\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_example_runs_and_prints_what_the_page_says(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(EXAMPLE, "utf-8")
    environment = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        [sys.executable, "-W", "error", program], capture_output=True, text=True, check=False,
        timeout=60, env=environment | {"NONO_TRIO_STATE_DIR": str(tmp_path / "state")},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == (PRINTED, "", 0)
