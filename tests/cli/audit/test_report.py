from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
import sealed_session as made
from vectors import VECTORS

from nono_trio.audit import store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "report.html"


def test_one_session(run, root, page):
    made.build(root)
    code, out, err = run("audit", "report", "latest", "-o", page)
    assert (code, out) == (0, "")
    assert err == f"nono-trio: {page}: session 0123456789abcdef is verified\n"
    assert page.read_text().startswith("<!doctype html>")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert [one.name for one in page.parent.iterdir() if one.name.startswith(".")] == []


def test_all_sessions_with_an_index(run, root, page):
    made.build(root, "one", name="first")
    made.unsealed(root, "two")
    made.build(root, "gone")
    for path in (root / "gone").iterdir():
        path.unlink()
    (root / "gone").rmdir()
    code, out, _ = run("audit", "report", "--all", "-o", page, "--json")
    answer = json.loads(out)
    assert (code, answer["schema"], answer["sections"]) == (0, 1, 2)
    verdicts = {one["session_id"]: one["verdict"] for one in answer["sessions"]}
    assert verdicts == {"one": "verified", "two": "crashed", "gone": "missing"}
    text = page.read_text()
    assert text.count('<details class="session"') == 2
    assert "Sessions whose record is not whole" in text
    assert (answer["file"], answer["bytes"]) == (str(page), page.stat().st_size)


def test_a_page_of_many_sessions_says_what_it_lacks(run, root, page, monkeypatch):
    monkeypatch.setattr("nono_trio.cli.audit.report.MAX_SECTIONS", 1)
    monkeypatch.setattr("nono_trio.audit.report.index.MAX_ROWS", 2)
    for name in ("one", "two", "three"):
        made.build(root, name)
    assert run("audit", "report", "--all", "-o", page)[0] == 0
    text = page.read_text()
    assert text.count('<details class="session"') == 1
    assert "1 row more is not on this page." in text
    assert "The newest 1 that can be read have a section below." in text


def test_no_session_at_all_is_a_page_too(run, page):
    code, _, err = run("audit", "report", "--all", "-o", page)
    assert (code, err) == (0, f"nono-trio: {page}: 0 sessions\n")


def test_a_session_that_can_not_be_read_does_not_hide_the_others(run, root, page):
    made.build(root, "one")
    broken = made.build(root, "two")
    (broken / store.LOG).unlink()
    (broken / store.LOG).mkdir()
    code, out, _ = run("audit", "report", "--all", "-o", page, "--json")
    assert code == 0
    assert {one["verdict"] for one in json.loads(out)["sessions"]} == {"verified", "tampered"}


def test_the_hints_of_the_page_have_the_directory(run, root, page, tmp_path, monkeypatch):
    made.build(root)
    monkeypatch.delenv("NONO_TRIO_STATE_DIR")
    assert run("audit", "report", "latest", "-o", page, "--audit-dir", tmp_path)[0] == 0
    assert f"nono-trio audit verify --audit-dir {tmp_path} 0123456789abcdef" in page.read_text()


def test_a_session_elsewhere_is_named_by_its_path(run, root, page, tmp_path):
    elsewhere = tmp_path / "a; reboot"
    made.build(root).rename(elsewhere)
    assert run("audit", "report", elsewhere, "-o", page)[0] == 0
    assert f"nono-trio audit verify &#39;{elsewhere}&#39;" in page.read_text()


def test_a_session_of_upstreams_is_judged_by_its_rules_on_request(run, page):
    for flags, verdict, said in (
        ([], "unreadable", "could not be judged"),
        (["--upstream"], "verified", "by the weaker rules of upstream nono"),
    ):
        code, out, _ = run(
            "audit", "report", VECTORS / "n5", "-o", page, "--json", "--force", *flags
        )
        assert (code, json.loads(out)["sessions"][0]["verdict"]) == (0, verdict)
        assert said in page.read_text()


def test_a_file_that_is_there_is_replaced_with_force_only(run, root, page):
    made.build(root)
    page.write_text("mine")
    code, _, err = run("audit", "report", "latest", "-o", page)
    assert (code, page.read_text()) == (2, "mine")
    assert err.endswith("hint: name another file, or add --force\n")
    assert run("audit", "report", "latest", "-o", page, "--force")[0] == 0
    assert page.read_text() != "mine"


@pytest.mark.parametrize(
    "output", ["{root}/report.html", "{root}/0123456789abcdef/x.html", "{root}/../none/x.html", ""]
)
def test_places_where_no_report_goes(run, root, output):
    made.build(root)
    before = sorted(root.rglob("*"))
    code, _, err = run("audit", "report", "latest", "-o", output.format(root=root))
    assert (code, "hint: " in err) == (2, True)
    assert sorted(root.rglob("*")) == before


def test_one_session_or_all(run, root, page):
    made.build(root)
    assert run("audit", "report", "-o", page)[0] == 2
    assert run("audit", "report", "latest", "--all", "-o", page)[0] == 2
    assert run("audit", "report", "latest")[0] == 2
    assert not page.exists()


def test_a_page_is_no_file_of_the_name_of_stdout(run, root, tmp_path, monkeypatch):
    made.build(root)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("audit", "report", "latest", "-o", "-")
    assert (code, out, "hint: as in -o report.html" in err) == (2, "", True)
    assert not (tmp_path / "-").exists()
