"""What the page says, by its text; that it loads and runs nothing is asked of a browser too."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import sealed_session as made
from harness import RUN_SECONDS

from nono_trio.audit import store
from nono_trio.audit.report.page import PageParts, content_policy, source
from nono_trio.audit.report.session_report import ONE_OF_MANY, ONE_SESSION, report_session
from nono_trio.audit.verify.session import verify
from nono_trio.core.log import events
from nono_trio.core.log.file_events import denied_file

if TYPE_CHECKING:
    from pathlib import Path

    from nono_trio.audit.report.session_report import SessionReport

CHROMIUM = shutil.which("chromium")
HOSTILE = [
    "</script><script>document.title='ran'</script>",
    "<img src=x onerror=\"document.title='ran'\">",
    "\"'><svg onload=document.title='ran'>",
    "evil\u202egnp.exe",
    "\x1b]0;ran\x07\u2028\u0000",
    "emoji-\U0001f600.example",
    "m" * 1_000_000,
]


def report_of(directory: Path, limits=ONE_SESSION) -> SessionReport:
    return report_session(directory, verify(directory), limits)


def page_of(*reports: SessionReport) -> str:
    parts = PageParts(datetime(2026, 7, 2, tzinfo=UTC), "0.1.0", lambda command: command)
    for report in reports:
        parts.add(report, folded=False)
    return "".join(parts.page())


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


def looked_up(path: str, access="Read"):
    return denied_file(
        path, access, process=17, number=1, session_id="0123456789abcdef",
        unix_ns=(made.NOON_UNIX_MS + 4) * 10**6,
    )  # fmt: skip


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


def hostile_session(root: Path) -> Path:
    """A log whose every text is hostile; it is longer than our writer would make it."""
    payloads = [events.SessionStarted(started=made.STARTED, command=["agent", *HOSTILE])]
    payloads += [made.sandbox_runtime()]
    for number, text in enumerate(HOSTILE):
        payloads += [
            made.network(number, "deny", text, reason=f"{text} is not on the allowlist"),
            made.network(number, "allow", text, method="GET", path=text, mode="reverse"),
            looked_up(text),
        ]
    flows = [made.flow(3, target=text) for text in HOSTILE]
    return made.build(root, payloads=(*payloads, made.ended()), flows=flows, name=HOSTILE[0])


def test_hostile_names_are_text_and_bounded(root: Path) -> None:
    page = page_of(report_of(hostile_session(root)))
    assert len(page) < 300_000
    reader = Reader(page)
    assert sum(tag == "script" for tag, _ in reader.elements) == 2
    assert not [tag for tag, _ in reader.elements if tag in ("img", "iframe", "object", "base")]
    assert not [one for one in page if not one.isprintable() and one != "\n"]
    assert '<span class="hidden-character">\\u202e</span>gnp.exe' in page


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_runs_our_script_and_nothing_of_the_log(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(page_of(report_of(hostile_session(root))))
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    reader = Reader(done.stdout)
    assert "Zoom in" in reader.text  # made by our script
    assert re.search(r"UTC: 7 denied, 0 failed, 7 allowed, 7 files", reader.text)
    assert "<title>ran" not in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr
    assert "Content Security Policy" not in done.stderr
