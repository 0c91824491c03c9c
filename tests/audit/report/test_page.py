"""The page by its text and elements; test_in_browser.py asks a browser."""

from __future__ import annotations

import itertools
import re
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import sealed_session as made
from harness import RUN_SECONDS
from hostile_log import hostile_session, looked_up
from report_pages import page_of, report_of

from nono_trio.audit import store
from nono_trio.audit.report.page import content_policy, source
from nono_trio.audit.report.session_report import ONE_OF_MANY, pasteable_flag

if TYPE_CHECKING:
    from pathlib import Path


class Reader(HTMLParser):
    """The text of a page without style and script, its elements, and the values of attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag) -> None:
        self._inside = ""

    def handle_data(self, data) -> None:
        if self._inside not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


FULL = (
    made.started(),
    made.sandbox_runtime(),
    made.network(1, "allow", "example.com"),
    made.network(2, "deny", "evil.test", reason="evil.test:443 is not on the allowlist"),
    made.network(3, "deny", "evil.test", reason="evil.test:443 is not on the allowlist"),
    looked_up("/etc/shadow"),
    looked_up("/srv/out", "Write"),
    made.ended(7),
)


@pytest.fixture
def full(root: Path) -> Path:
    return made.build(root, payloads=FULL, flows=[made.flow(3)], name="agent", run_exit_code=3)


def test_a_session_in_the_words_of_a_page(full: Path) -> None:
    text = Reader(page_of(report_of(full))).text
    for part in (
        "agent --token '[REDACTED]'",
        "exit code: 3 (the command's own was 7). 2 attempts on 1 host were denied.",
        "It was let through to 1 host: 2.0 kB came in and 100 B went out.",
        "2 paths that were not granted were looked up.",
        "verified Every record was hashed again.",
        "evil.test:443 2 evil.test:443 is not on the allowlist",
        "--allow-domain evil.test:443",
        "/srv/out create process 17",
        "may read and write /home/a/project --allow",
        f"nono-trio audit verify {full.name}",
    ):  # fmt: skip
        assert part.replace(" ", "") in text.replace(" ", ""), part


def test_the_numbers_are_those_of_show(full: Path) -> None:
    report = report_of(full)
    assert (report.story.attempts.denied, report.timeline.total("denied")) == (2, 2)
    assert (report.story.attempts.allowed, report.timeline.total("allowed")) == (1, 1)
    assert report.timeline.total("files") == 2
    assert [one.sequence for one in report.records] == [3, 4, 5, 6, 7]


def test_the_command_that_compares_the_files_works(full: Path) -> None:
    page = page_of(report_of(full))
    block = next(one for one in re.findall(r"<pre><code>(.*?)</code>", page, re.S) if "cd " in one)
    script = Reader(block).texts
    asked = ["bash", "-c", "".join(script)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=RUN_SECONDS)
    assert done.returncode == 0, done.stderr
    assert f"{store.LOG}: OK" in done.stdout
    (full / store.POLICY).write_text("{}")
    assert subprocess.run(asked, capture_output=True, check=False, timeout=RUN_SECONDS).returncode


def tamper(directory: Path) -> Path:
    log = directory / store.LOG
    log.write_bytes(log.read_bytes().replace(b"evil.test", b"good.test", 1))
    return directory


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: tamper(made.build(root, payloads=FULL)), "event JSON mismatch"),
        (made.unsealed, "never sealed"),
        (made.running, "still running"),
    ],
)
def test_a_session_that_is_not_whole_says_so_first(root: Path, make, said: str) -> None:
    page = page_of(report_of(make(root)))
    made.let_go()
    assert said in Reader(page).text.partition("What ran")[2].partition("What ran")[0]


def test_a_long_session_is_counted_whole_and_listed_in_part(root: Path) -> None:
    denied = [
        made.network(number, "deny", f"h{number % 50}.test", reason="not on the allowlist")
        for number in range(2000)
    ]
    directory = made.build(root, payloads=(*FULL[:2], *denied, made.ended()))
    report = report_of(directory, ONE_OF_MANY)
    assert report.timeline.total("denied") == 2000
    assert len(report.records) == 80
    assert report.cut.records == 1920
    assert "1,920 records between them" in Reader(page_of(report)).text


def test_nothing_of_the_page_comes_from_elsewhere(full: Path) -> None:
    page = page_of(report_of(full))
    reader = Reader(page)
    for tag, attributes in reader.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        for name in ("src", "href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,")), tag
    policy = [found["content"] for _, found in reader.elements if "http-equiv" in found]
    assert policy == [content_policy(source("page.css"), source("page.js"))]
    assert "unsafe" not in policy[0]
    assert policy[0].startswith("default-src 'none'; ")


def test_tables_have_captions_and_scopes(full: Path) -> None:
    elements = Reader(page_of(report_of(full))).elements
    tables = sum(tag == "table" for tag, _ in elements)
    assert tables == sum(tag == "caption" for tag, _ in elements) > 5
    assert all(found.get("scope") in ("col", "row") for tag, found in elements if tag == "th")
    levels = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_hostile_names_are_text_and_bounded(root: Path) -> None:
    page = page_of(report_of(hostile_session(root)))
    assert len(page) < 300_000
    reader = Reader(page)
    assert sum(tag == "script" for tag, _ in reader.elements) == 2
    assert not [tag for tag, _ in reader.elements if tag in ("img", "iframe", "object", "base")]
    assert not [one for one in page if not one.isprintable() and one != "\n"]
    assert '<span class="hidden-character">\\u202e</span>gnp.exe' in page


@pytest.mark.parametrize(
    ("flag", "shown"),
    [
        ("--allow-domain a.test:443", "--allow-domain a.test:443"),
        ("--allow-domain [::1]:443", "--allow-domain '[::1]:443'"),
        ("--allow-endpoint 'GET https://a.test/*'", "--allow-endpoint 'GET https://a.test/*'"),
        ("--allow-domain a;reboot:443", "--allow-domain 'a;reboot:443'"),
        ("--allow-domain $(reboot):443", "--allow-domain '$(reboot):443'"),
        ("--allow-domain a --no-sandbox:443", None),
        ("--allow-domain a'b:443", None),
        ("--allow-domain a\u202eb:443", None),
        (f"--allow-domain {'a' * 1000}:443", None),
    ],
)
def test_a_flag_to_paste_is_that_flag_only(flag: str, shown: str | None) -> None:
    assert pasteable_flag(flag) == shown
