"""The type of the answer of `audit cleanup --json`; see cli/answers.py for the rules."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from nono_trio.audit.recovery.cleanup import Cleaned  # noqa: TC001  (these two are for msgspec)
from nono_trio.cli.answers import Failure  # noqa: TC001
from nono_trio.errors import JSON_SCHEMA


class Cleanup(msgspec.Struct, kw_only=True):
    """The whole answer: the sessions that a limit names, and the number and size of the others.

    `unfinished`: why what an earlier start, removal or import left could not be removed. `error`:
    what ended the cleanup after the last of `sessions`.
    """

    schema: int = JSON_SCHEMA
    dry_run: bool
    sessions: list[Cleaned]
    kept: int
    kept_size: int
    unfinished: list[str] | UnsetType = UNSET
    error: Failure | UnsetType = UNSET
