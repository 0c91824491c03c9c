"""Tells JSON and forms by the content type of a message; its parameters do not matter."""

from __future__ import annotations

import re
from typing import Final

from nono_trio.core.late import late_pattern

_JSON: Final = late_pattern(rb"application/(?:[\w.+-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE)
_FORM: Final = late_pattern(rb"application/x-www-form-urlencoded[ \t]*(?:;.*)?", re.IGNORECASE)


def is_json(content_type: bytes | None) -> bool:
    """Return True for JSON and for types that are written in it (+json)."""
    return content_type is not None and _JSON.fullmatch(content_type) is not None


def is_form(content_type: bytes | None) -> bool:
    """Return True for a form in percent escapes."""
    return content_type is not None and _FORM.fullmatch(content_type) is not None
