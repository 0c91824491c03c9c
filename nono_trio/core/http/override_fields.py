"""Fields by which a server takes another method or path than those of the request line."""

from __future__ import annotations

from typing import Final

# Frameworks take another method or path from the first of them. The others name a second path of
# the server: WebDAV's copies and moves, and those of object stores.
_OVERRIDE_FIELDS: Final = frozenset({
    b"x-http-method", b"x-http-method-override", b"x-method-override",
    b"x-original-url", b"x-rewrite-url", b"x-original-uri", b"x-override-url",
    b"destination", b"x-copy-from",
})  # fmt: skip
_SECOND_PATH_ENDS: Final = (b"-copy-source", b"-rename-source")  # x-amz-, x-goog-, x-ms-, ...
# CGI and its like make one variable of every name: some take each other character for a hyphen.
_SPELLING: Final = bytes(
    one if chr(one).isalnum() and one < 128 else 45 for one in bytes(range(256)).lower()
)


def hyphenated(name: bytes) -> bytes:
    """Return the name of a field in lower case, with hyphens for all but letters and digits."""
    return name.translate(_SPELLING)


def is_override_field(name: bytes) -> bool:
    """Return True for a field that may replace method or path, or name a second path, at a server
    that takes any character that is no letter or digit for a hyphen."""
    spelled = hyphenated(name)
    return spelled in _OVERRIDE_FIELDS or spelled.endswith(_SECOND_PATH_ENDS)
