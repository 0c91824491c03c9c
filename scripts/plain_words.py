#!/usr/bin/env python3
"""Count turns of phrase that a reader in a hurry has to read twice; fail above 1 in 1,000 words.

    plain_words.py [--list] PATH...     Python files: comments, docstrings, messages; *.md: prose

The patterns are rough on purpose. A turn that is right where it is costs nothing below the limit.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import re
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST = 1.0  # in 1,000 words
_VERB = r"(?:is|are|was|has|have|had|can|may|would|will|does|do|knows?|means?|leaves?|gets?|asks?)"
PATTERNS = {
    "'for' that joins two sentences": re.compile(
        r", for (?:it|they|he|she|this|that|the|who|what|nothing|nobody|no|a|an|each|every|some)\b"
        rf"[^.]{{0,60}}\b{_VERB}\b"
    ),
    "is none": re.compile(r"\b(?:is|are|was|were|has|have|be) none\b(?! of)"),
    "whoever, nobody, somebody": re.compile(r"\b(?:whoever|nobody|somebody)\b"),
    "stands": re.compile(r"\bstands?\b(?!-ins?\b| (?:for|alone)\b)"),
    "is told, asked about": re.compile(
        r"\b(?:is|are|be|was|were) (?:told|asked about|looked at|listened at|said)\b"
    ),
    "a question word that opens a statement": re.compile(
        r"^(?:What|Whether|Where|Who|Whose)\b[^?]*$", re.MULTILINE
    ),
    "an idiom with had or hold": re.compile(
        r"\b(?:to be had|can(?:no|')t be had|could be had|none the wiser|for good)\b"
    ),
    "as it does": re.compile(r", as (?:it|they|he) (?:does|do|did|is|are|was|were|may|must|can)\b"),
    "an empty ending": re.compile(
        r"\b(?:or|and) nothing else\b|\bno more than that\b|\bin its stead\b|\bby itself\b"
    ),
}
_NO_PROSE = ("#!", "# type:", "# noqa", "# fmt")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_FEWEST_SPACES = 4  # a string with fewer is a name, a path or a word


class Text(NamedTuple):
    """Prose and the line on which it begins."""

    line: int
    words: str


def texts_of(path: Path) -> Iterator[Text]:
    """The prose of a file. Raises SyntaxError for a Python file that does not parse."""
    source = path.read_text("utf-8")
    return _markdown(source) if path.suffix == ".md" else iter(set(_python(source)))


def _markdown(source: str) -> Iterator[Text]:
    """Its paragraphs; a code block is output or a command, no prose."""
    prose = _FENCED.sub(lambda block: "\n" * block.group().count("\n"), source)
    for match in re.finditer(r"\S.*?(?=\n\s*\n|\Z)", prose, re.DOTALL):
        yield Text(prose.count("\n", 0, match.start()) + 1, match.group())


def _python(source: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(_NO_PROSE):
            yield Text(token.start[0], token.string.lstrip("# "))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = inspect.cleandoc(node.value)
            if text.count(" ") >= _FEWEST_SPACES:
                yield Text(node.lineno, text)


def found_in(text: str) -> Iterator[tuple[str, str]]:
    """Each pattern that is in a text, with the words that it met."""
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(text):
            yield name, " ".join(match.group().split())


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.py"))
            yield from sorted(path.rglob("*.md"))
        else:
            yield path


def main(arguments: list[str]) -> int:
    """Print the rate and the worst files; 1 when the rate is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print each hit with its place")
    parser.add_argument("paths", nargs="+", type=Path)
    options = parser.parse_args(arguments)
    words, by_file = 0, Counter[str]()
    for path in _files(options.paths):
        for text in texts_of(path):
            words += len(text.words.split())
            for name, met in found_in(text.words):
                by_file[str(path)] += 1
                if options.list:
                    print(f"{path}:{text.line}: {name}: {met}")
    rate = 1000 * by_file.total() / max(words, 1)
    print(f"plain words: {rate:.2f} hits in 1,000 words ({by_file.total()} in {words})")
    if rate <= MOST:
        return 0
    for path, count in by_file.most_common(8):
        print(f"  {count:4} {path}")
    print(f"more than {MOST:g} in 1,000: write subject, verb, object (CONTRIBUTING.md)")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
