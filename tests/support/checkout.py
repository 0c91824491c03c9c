"""Where things are in this checkout."""

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent  # what tests share
TESTS = SUPPORT.parent
ROOT = TESTS.parent
