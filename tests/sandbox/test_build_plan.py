"""The texts about a cage's protection and gaps are true of the kernel that it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cage_plans import cage_plan

from nono_trio.errors import CageFailed
from nono_trio.sandbox import build_plan
from nono_trio.sandbox.build_plan import cage_files, enforcement, left_open
from nono_trio.sandbox.filesystem.plan import FilePlan
from nono_trio.sandbox.filesystem.streams import Stream
from nono_trio.sandbox.spawn import NamespacesRefused
from nono_trio.session.cage_launch import Listeners, prepare_again

if TYPE_CHECKING:
    from nono_trio.sandbox.launcher.cage_plan import Isolation

UNSCOPED = "signals to your processes, abstract sockets"


@pytest.mark.parametrize(
    ("abi", "held"),
    [
        ("V6", "Landlock ABI V6: files, signals and abstract sockets"),
        ("V5", "Landlock ABI V5: files"),
        ("V2", "Landlock ABI V2: files"),
    ],
)
def test_landlock_holds_what_its_abi_can(abi: str, held: str) -> None:
    assert held in enforcement(cage_plan(isolation="namespace"), abi)


def test_an_open_file_system_is_not_called_closed() -> None:
    """The text about a mount namespace must name the files that exist in it."""
    (line,) = (
        each
        for each in enforcement(cage_plan(isolation="namespace", landlock=False), None)
        if "mount" in each
    )
    assert line == "mount namespace: a private /proc, all else is the host's"


def test_in_namespaces_an_old_landlock_leaves_nothing_open() -> None:
    assert left_open(cage_plan(isolation="namespace"), "V1", None) == []


@pytest.mark.parametrize(
    ("abi", "open_"),
    [
        (
            "V2",
            ["emptying files that it may only read, signals to your processes, abstract sockets"],
        ),
        ("V5", ["signals to your processes, abstract sockets"]),
        ("V6", []),
    ],
)
@pytest.mark.parametrize("isolation", ["landlock", "none"])
def test_without_namespaces_it_does(isolation: Isolation, abi: str, open_: list[str]) -> None:
    said = left_open(cage_plan(isolation=isolation), abi, None)
    by_landlock = [each for each in said if each.startswith("Landlock ABI")]
    assert by_landlock == [f"Landlock ABI {abi} leaves open: {each}" for each in open_]


def test_a_fallback_that_is_refused_points_back_to_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_options: object, **_settings: object) -> None:
        raise CageFailed("landlock isolation needs Landlock ABI 4", hint="`--isolation none` runs")

    monkeypatch.setattr("nono_trio.session.prepare.prepare_run", refuse)
    refused = NamespacesRefused("namespaces", "no more allowed")
    options: Any = type("Options", (), {"isolation": "landlock"})
    with pytest.raises(CageFailed) as failed:
        prepare_again(options, refused, Listeners(warn=lambda _text: None), said=())
    assert failed.value.hint == (
        "`nono-trio doctor` says what would allow namespaces; `--isolation none` runs"
    )


def test_files_behind_the_streams_are_granted_by_what_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its path alone, a link that another command puts there would be granted for writing."""
    log = Stream("/project/log", "write", (1, 2), is_terminal=False)
    monkeypatch.setattr(build_plan, "handed_over", lambda _files: [log])
    files = FilePlan((), (), (), (), "/", "/")
    caged = cage_files(files, "landlock", sandbox=True, temporary=None)
    assert ("/project/log", "write", True) in caged.grants
    assert caged.identities == {"/project/log": (1, 2)}
    caged = cage_files(files, "namespace", sandbox=True, temporary=None)
    assert [one.identity for one in caged.mounts if one.kind == "stream"] == [(1, 2)]
