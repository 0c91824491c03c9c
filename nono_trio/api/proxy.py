"""The filtering, recording proxy inside a trio program.

As `nono-trio proxy`: each decision is in the session's log before it takes effect. Only clients
that use it are held: code in the same process can open connections of its own. To keep a program
to the proxy, run it in a cage (`nono-trio run`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from typing import Literal

    from nono_trio.api.serving import EmbeddedProxy

__all__ = ["EmbeddedProxy", "open_proxy"]


def open_proxy(
    *,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    resolve: Sequence[str] = (),
    observe: bool = False,
    port: int = 0,
    grace_seconds: float = 5.0,
    max_connections: int = 256,
    command: Sequence[str] | None = None,
    name: str | None = None,
    audit_dir: str | Path | None = None,
    mode: Literal["strict", "best-effort"] = "strict",
    sync: Literal["always", "interval", "never"] = "interval",
    sign_key: str | None = None,
) -> AbstractAsyncContextManager[EmbeddedProxy]:
    """Open a session with a proxy on a port of the loopback; `async with` it, inside trio.

    `allow`, `deny`, `resolve` and `observe` are the rules, as `--allow-domain`, `--deny-domain`,
    `--resolve` and `--observe` have them: hosts and ports. Rules about paths need interception and
    are refused here. `port` 0 is any free one. A connection takes two descriptors; the limit of the
    process is left as it is. The other arguments are those of `audit.record`.

    The block has an `EmbeddedProxy`. When it is left, the listener closes; connections that are
    open get `grace_seconds`, or none if the block failed or was cancelled; then the log is sealed,
    as `audit.record` says. If the log fails, the proxy refuses everything and the body is
    cancelled. Raises as `audit.record`, and UsageError for a rule that can't be meant or a port
    that is taken.
    """
    from nono_trio.api.serving import Rules, serve  # late: it needs trio
    from nono_trio.api.writing import SessionRequest

    rules = Rules(allow, deny, resolve, observe)
    request = SessionRequest(command, name, audit_dir, mode, sync, sign_key)
    return serve(request, rules, port, grace_seconds, max_connections)


def __getattr__(name: str) -> object:
    if name == "EmbeddedProxy":
        from nono_trio.api import serving  # late: it needs trio

        return serving.EmbeddedProxy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
