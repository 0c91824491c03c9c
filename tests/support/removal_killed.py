"""Removes a home with a login in the keyring, killed before every call that changes a file.

Run as a program: `removal_killed.py DIRECTORY`. For n = 0, 1, 2 ... a forked process removes a home
and is killed before the n-th call, until one ends its work. After the next removal nothing of the
home may be there, nor its key. It prints how many were killed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from file_keyring import Keyring
from killed_at import MOST, killed_before
from sealing_killed import LOGINS

from nono_trio.errors import UsageError
from nono_trio.session.homes.kept_homes import Homes, WantedHome
from nono_trio.session.tokens.kept_tokens import KeptTokens
from nono_trio.session.tokens.token_keyring import LoginKeyring


def _killed(root: str, number: int) -> bool:
    homes = Homes(root)
    held = homes.claim(WantedHome("agent", "landlock", "agent", root), ())
    inside = Path(held.path)
    tokens = KeptTokens(str(inside.parent), LoginKeyring())
    tokens.write(LOGINS)
    tokens.close()
    held.close()
    (inside / "cache" / "deep").mkdir(parents=True)
    for name in ("login", "cache/one", "cache/deep/two"):
        (inside / name).write_text("secret")
    pid = os.fork()
    if pid == 0:
        killed_before(number)
        homes.remove(held.name)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(UsageError):  # there is no home of that name any more
        homes.remove(held.name)
    assert os.listdir(root) == [], number
    assert Keyring().passwords() == {}, number
    return status != 0


if __name__ == "__main__":
    print(next(number for number in range(MOST) if not _killed(sys.argv[1], number)))
