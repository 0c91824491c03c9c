"""An installation of nono-trio for one test, with all files that a command may try to change."""

from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

import nono_trio
from nono_trio.startup import dependency_directories

PACKAGE = Path(nono_trio.__file__).resolve().parent
SCRIPT = """#!{python}
import re
import sys
from nono_trio.entry import main
if __name__ == "__main__":
    sys.exit(main())
"""


def install(environment: Path, editable: Path | None = None) -> Path:
    """Make a virtual environment with a copy of the package, compiled as here; return its command.
    If `editable` is given, the copy is in that directory. The dependencies are those of the test
    run."""
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = environment / "lib" / version / "site-packages"
    shutil.copytree(PACKAGE, (editable or site_packages) / "nono_trio")
    (site_packages / "dependencies.pth").write_text("\n".join(dependency_directories(sys.path)))
    if editable is not None:
        (site_packages / "editable.pth").write_text(str(editable))
    command = environment / "bin" / "nono-trio"
    command.write_text(SCRIPT.format(python=python))
    command.chmod(0o755)
    return command
