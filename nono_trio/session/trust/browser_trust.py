"""Makes Chromium trust the session: by a policy file, in a mount view.

Chromium has roots of its own and reads no variable. It reads the files of a directory that only the
machine's administrator writes, and one of their settings names more roots (CACertificates).

Rules of this file: a directory that the cage sees from the host gets no file of ours, because that
would need a mount point among the host's files. The policy names the authority and nothing else.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

from nono_trio.session.trust.trust_places import BROWSER_POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.proxy.intercept.ca import Authority

FILE: Final = "nono-trio.json"


def policy(authority: Authority) -> bytes:
    """Return the policy that adds the authority to a browser's roots."""
    roots = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in authority.chain]
    return json.dumps({"CACertificates": roots}).encode()


def free_directories(is_taken: Callable[[str], bool]) -> list[str]:
    """Return the directories, by their paths without symlinks, that may get the file. `is_taken`:
    the cage sees the host's directory there, or a closed one."""
    found = dict.fromkeys(os.path.realpath(one) for one in BROWSER_POLICIES)
    return [one for one in found if not is_taken(one)]
