"""What a run has is given back, also after a part that fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nono_trio.session import cage_launch
from nono_trio.session.run_resources import RunResources


class Part:
    """A part that can be closed; `fails` says that this raises."""

    def __init__(self, *, fails: bool = False) -> None:
        self.fails = fails
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
        if self.fails:
            raise OSError("the file system is gone")


def test_a_part_that_fails_keeps_no_other_part_open(tmp_path, monkeypatch):
    names = ("listener", "terminal", "home", "denials", "trust", "credentials", "logins")
    parts: dict[str, Any] = {name: Part(fails=name in ("credentials", "home")) for name in names}
    temporary = tmp_path / "own"
    temporary.mkdir()
    own = RunResources(
        listen_ports={}, taken_ports={}, port=1, token="", identities={},
        temporary=str(temporary), **parts,
    )  # fmt: skip
    secrets, launched = Part(), SimpleNamespace(abandon=Part(fails=True).close)
    prepared: Any = SimpleNamespace(
        plan=SimpleNamespace(brokered=False, answers_denied=False),
        resources=own, credentials=secrets,
    )  # fmt: skip
    monkeypatch.setattr(cage_launch, "spawn", lambda _plan, _cgroup: launched)
    monkeypatch.setattr(cage_launch, "await_ready", lambda _launched: {})
    with (
        pytest.raises(OSError, match="the file system is gone"),
        cage_launch.launched_cage(SimpleNamespace(), prepared, None, SimpleNamespace()),  # type: ignore[arg-type]
    ):
        pass
    assert all(one.is_closed for one in (*parts.values(), secrets))
    assert not temporary.exists()
