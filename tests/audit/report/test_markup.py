from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from nono_trio.audit.report.markup import Html, element, escaped, joined, json_data, raw_element
from nono_trio.audit.report.markup import text as marked

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"' onmouseover='alert(1)' x=\"",
    "a\u202egnp.exe",
    "\x1b[31m\x00\r\n\u2028\u2029\u0085\ufeff\u200b",
    "]]>--><!--",
    "&lt;b&gt;&amp;",
    "emoji \U0001f600 \udc80 surrogate",
    "`${alert(1)}`",
]


class Reader(HTMLParser):
    """Collects elements, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts += data


@pytest.mark.parametrize("hostile", HOSTILE)
def test_text_stays_text(hostile: str) -> None:
    reader = Reader()
    reader.feed(element("p", hostile, title=hostile))
    assert reader.tags[0] == "p"
    assert set(reader.tags[1:]) <= {"span"}
    shown = "".join(one for one in hostile if one.isprintable())
    assert all(character in reader.texts for character in shown)
    assert reader.texts.isprintable()
    assert dict(reader.attributes)["title"] == reader.texts
    assert {name for name, _ in reader.attributes} <= {"title", "class"}


def test_what_is_not_printable_is_shown_and_marked() -> None:
    assert marked("a\u202eb") == 'a<span class="hidden-character">\\u202e</span>b'
    assert marked("a\\u202eb") == "a\\u202eb"


def test_markup_is_not_escaped_again_and_parts_of_it_are_text() -> None:
    made = element("b", "<")
    assert joined([made, "<"], " & ") == "<b>&lt;</b> &amp; &lt;"
    assert not isinstance(made[:3], Html)
    assert element("i", made[:3]) == "<i>&lt;b&gt;</i>"
    assert escaped(made) == "&lt;b&gt;&amp;lt;&lt;/b&gt;"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_data_of_a_script_has_no_markup_in_it(hostile: str) -> None:
    written = json_data({"name": hostile})
    assert written.isascii()
    assert not set("<>&") & set(written)
    assert json.loads(written) == {"name": hostile}


def test_a_source_that_ends_its_element_is_refused() -> None:
    with pytest.raises(AssertionError):
        raw_element("script", "let a = '</SCRIPT>'")
