"""The lines of `--follow` about files that are not granted: one a record, bounded, harmless."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nono_trio.cli.follow import MAX_FILES, FollowPrinter
from nono_trio.core.log.file_events import denied_file, more_denied_files

if TYPE_CHECKING:
    import pytest

    from nono_trio.core.log.file_events import FileAccess
    from nono_trio.core.log.nono_events import CapabilityDecision


def look_up(path: str, access: FileAccess = "Read") -> CapabilityDecision:
    return denied_file(path, access, process=1, number=1, session_id="5e55", unix_ns=10**18)


def followed(capsys: pytest.CaptureFixture[str], *payloads: CapabilityDecision) -> list[str]:
    printer = FollowPrinter(["/opt/tools/bin"])
    for sequence, payload in enumerate(payloads):
        printer.observe(sequence, payload)
    return [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()]


def test_each_look_up_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert followed(
        capsys, look_up("/srv/data"), look_up("/srv", "Write"), more_denied_files(7, "5e55", 10**18)
    ) == [
        "deny  file     /srv/data (read)  not granted",
        "deny  file     /srv (create)  not granted",
        "log    7 more look-ups of files were not recorded one by one",
    ]


def test_what_every_program_looks_for_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    places = (look_up("/etc/locale.alias"), look_up("/opt/tools"), look_up("/etc/new", "Write"))
    assert followed(capsys, *places) == ["deny  file     /etc/new (create)  not granted"]


def test_a_search_of_a_whole_disk_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = followed(capsys, *(look_up(f"/srv/{number}") for number in range(MAX_FILES + 50)))
    assert len(lines) == MAX_FILES + 1
    assert lines[-2] == f"deny  file     /srv/{MAX_FILES - 1} (read)  not granted"
    assert lines[-1].endswith("have no line here; `audit show` has them")


def test_a_name_is_one_harmless_line(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = followed(capsys, look_up("/srv/\x1b[2J\nnono-trio: all is well" + "x" * 4096))
    assert line.startswith("deny  file     /srv/\\x1b[2J\\x0anono-trio")
    assert line.isprintable()
    assert len(line) < 250
