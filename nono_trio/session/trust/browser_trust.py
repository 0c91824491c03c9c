"""Makes Chromium and Firefox trust the session: by a policy file, in a mount view.

Both have roots of their own and read no variable. They read policies from a directory that only the
machine's administrator writes, and one setting names more roots: CACertificates in Chromium,
Certificates.Install in Firefox, which names a file.

Rules of this file: a directory that the cage sees from the host gets no file of ours, because that
would need a mount point among the host's files. The policy names the authority only.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nono_trio.proxy.intercept.ca import Authority

FILE: Final = "nono-trio.json"
FIREFOX_FILE: Final = "policies.json"  # Firefox reads no other name


def policy(authority: Authority) -> bytes:
    """Return the policy that adds the authority to Chromium's roots."""
    roots = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in authority.chain]
    return json.dumps({"CACertificates": roots}).encode()


def firefox_policy(path: str) -> bytes:
    """Return the policy that adds the certificate in a PEM file to Firefox's roots."""
    return json.dumps({"policies": {"Certificates": {"Install": [path]}}}).encode()


def free_directories(directories: Iterable[str], is_taken: Callable[[str], bool]) -> list[str]:
    """Return the directories, by their paths without symlinks, that may get a file. `is_taken`:
    the cage sees the host's directory there, or a closed one."""
    found = dict.fromkeys(os.path.realpath(one) for one in directories)
    return [one for one in found if not is_taken(one)]
