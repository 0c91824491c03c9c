"""Tells which host files a command may read and write, to check that ours are closed to it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from nono_trio.posix.paths import is_in
from nono_trio.sandbox.launcher.symlinks import follow

if TYPE_CHECKING:
    from nono_trio.sandbox.filesystem.plan import FilePlan


class OpenedFiles:
    """Tells which files of the host are open to the command."""

    def __init__(self, files: FilePlan, *, sandbox: bool) -> None:
        self._files = files
        self._sandbox = sandbox

    def reader(self, path: str) -> str | None:
        """Name the grant by which the command may read a path."""
        if not self._sandbox:
            return "--no-sandbox"
        grant = self._files.covers(path, "read")
        return None if grant is None else f"{grant.source} {grant.path}"

    def may_write(self, path: str) -> bool:
        """Tell whether the command may write a path; what it could write without a sandbox is
        the user's choice."""
        return self.grants_writing(path) or self.may_have_other_name(path)

    def grants_writing(self, path: str) -> bool:
        """Tell whether a grant for writing covers a path, or a link by which it leads elsewhere."""
        if not self._sandbox:
            return False
        links = (
            os.path.dirname(link) for link in follow(os.path.join(os.getcwd(), path)).links
        )  # it could lead elsewhere
        return any(self._files.covers(one, "write") is not None for one in (path, *links))

    def may_write_below(self, path: str) -> bool:
        """Tell whether the command may write a directory, or anything below it."""
        real = os.path.realpath(path)
        below = (one.real for one in self._files.grants if self._sandbox and one.may_write)
        return self.may_write(path) or any(is_in(one, real) for one in below)

    def may_have_other_name(self, path: str) -> bool:
        """Tell whether a file that this user can write has another name, on a file system of which
        a part is granted for writing: that name may be there."""
        if not self._sandbox:
            return False
        try:
            found = os.stat(path)
        except OSError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_nlink == 1 or not os.access(path, os.W_OK):
            return False
        places = (one.identity for one in self._files.grants if one.may_write)
        return any(one is not None and one[0] == found.st_dev for one in places)

    def shows(self, path: str) -> bool:
        """Tell whether a view shows the host's directory at a path, or must not show one."""
        return any(is_in(path, one) for one in (*self.granted, *self._files.denied))

    def is_closed(self, path: str) -> bool:
        """Tell whether a path is closed inside a grant."""
        return any(is_in(path, one) for one in self._files.covered)

    @property
    def granted(self) -> list[str]:
        """The granted paths without symlinks."""
        return [grant.real for grant in (*self._files.grants, *self._files.sockets)]
