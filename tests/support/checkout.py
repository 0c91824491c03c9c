"""Directories of this checkout."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent  # code that tests share
TESTS = SUPPORT.parent
ROOT = TESTS.parent
