"""Moves the tokens of a home into the keyring, killed before every call that changes a file.

Run as a program: `sealing_killed.py DIRECTORY`. For n = 0, 1, 2 ... a forked process moves them and
is killed before the n-th call, until one ends its work. The tokens must be there each time. It
prints how many were killed.
"""

from __future__ import annotations

import os
import sys

from killed_at import MOST, killed_before

from nono_trio.core.credentials.login_tokens import LoginToken
from nono_trio.session.tokens.kept_tokens import KeptTokens
from nono_trio.session.tokens.token_keyring import LoginKeyring
from nono_trio.session.tokens.token_store import TOKENS

LOGINS = {"agent": (LoginToken("access_token", b"gho_0123456789", b"stand-in-0123456789"),)}


def _killed(home: str, number: int) -> bool:
    plain = KeptTokens(home)
    plain.write(LOGINS)
    plain.close()
    pid = os.fork()
    if pid == 0:
        keyring = LoginKeyring()
        killed_before(number)
        KeptTokens(home, keyring).close()
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    found = KeptTokens(home, LoginKeyring())
    found.close()
    assert found.logins == LOGINS
    os.unlink(os.path.join(home, TOKENS))
    return status != 0


if __name__ == "__main__":
    print(next(number for number in range(MOST) if not _killed(sys.argv[1], number)))
