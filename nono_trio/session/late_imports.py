"""The supervisor loads no code once the command has started; a late import ends the run."""

from __future__ import annotations

from nono_trio.errors import NonoTrioError
from nono_trio.sandbox.launcher.import_freeze import freeze_imports, refusal_text


class LateImport(NonoTrioError, ImportError):
    """Code was to be loaded after the command had started."""

    def __init__(self, name: str) -> None:
        super().__init__(
            refusal_text(name),
            hint="this is a fault of nono-trio: report it, with the command line",
        )
        self.name = name


def refuse_late_imports() -> None:
    """Raise LateImport for every further import of this process; irrevocable."""
    freeze_imports(LateImport)
