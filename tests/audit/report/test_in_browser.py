"""The page in a real browser: what runs, what the content policy says, zooming, narrow screens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sealed_session as made
from browser import browser, needs_chromium
from hostile_log import hostile_session
from report_pages import page_of, report_of

if TYPE_CHECKING:
    from pathlib import Path

    from browser import Page

SHOWN = "document.querySelector('.shown').textContent"
VISIBLE = "document.querySelectorAll('.records tbody tr:not([hidden])').length"
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PATHS = "[...document.querySelectorAll('.lane path')].map(one => one.getAttribute('d').length)"


@needs_chromium
def test_only_our_script_runs_and_it_zooms(root: Path, tmp_path: Path) -> None:
    hostile, long = tmp_path / "hostile.html", tmp_path / "long.html"
    hostile.write_text(page_of(report_of(hostile_session(root))))
    denied = [made.network(number * 10, "deny", f"h{number}.test") for number in range(100)]
    payloads = (*made.SMALL[:2], *denied, made.ended())
    long.write_text(page_of(report_of(made.build(root, "long", payloads))))
    with browser(tmp_path / "profile") as page:
        page.open(hostile.as_uri())
        assert "7 denied, 0 failed, 7 allowed, 7 files" in page.ask(SHOWN)
        assert page.ask("document.title").startswith("nono-trio: agent")
        assert page.ask("document.querySelectorAll('img, iframe, object, [style]').length") == 0
        _fits_narrow_screens(page, hostile.as_uri())
        _zooms(page, long.as_uri())
        _is_whole_without_a_script(page, long.as_uri())
        assert page.complaints == []
        page.ask("document.body.append(Object.assign(document.createElement('script'),"
                 " {textContent: 'document.title = \"ran\"'}))")  # fmt: skip
        assert page.ask("document.title") != "ran"
        page.call("Log.enable")
        assert "Content Security Policy" in str(page.complaints)  # this test would see one


def _fits_narrow_screens(page: Page, address: str) -> None:
    for width in (360, 1440):
        page.open(address, width=width)
        assert page.ask(OVERFLOW) == 0, width


def _zooms(page: Page, address: str) -> None:
    page.open(address)
    assert "100 denied, 0 failed, 0 allowed. 100 of 100 listed records." in page.ask(SHOWN)
    page.ask("document.querySelector('.records').open = true")
    page.drag(".lane.denied svg", 0.1, 0.15)
    seen = page.ask(VISIBLE)
    assert 0 < seen < 100
    assert f"{seen} denied, 0 failed, 0 allowed. {seen} of 100" in page.ask(SHOWN)
    page.ask("[...document.querySelectorAll('.zoom button')].at(-1).click()")
    assert page.ask(VISIBLE) == 100


def _is_whole_without_a_script(page: Page, address: str) -> None:
    page.open(address, scripts=False)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.ask("document.querySelectorAll('.zoom, .shown').length") == 0
    assert page.ask(f"{PATHS}[0]") > 100
    assert page.ask(VISIBLE) == 100
