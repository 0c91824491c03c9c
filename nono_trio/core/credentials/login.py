"""A captured login: the command signs in itself, and gets stand-ins for the tokens of its answer.

Rules of this file:
- A login has no source: its tokens come from the answers of its token URLs.
- Its tokens are swapped on the bound hosts of the credential, in its places, and at the token URLs
  in fields of the body.
- An answer is captured at every port and scheme of a token URL's host, whatever spelling its path
  has (`TokenUrl.matches`); a token is swapped in at the URL's own origin only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.token_answer import TOKEN_FIELDS
from nono_trio.core.credentials.token_url import parse_token_url
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nono_trio.core.credentials.token_url import TokenUrl
    from nono_trio.core.net.host import Host

MAX_URLS: Final = 8
MAX_FIELDS: Final = 16
# Fields that every client needs as they are.
_NO_TOKENS: Final = frozenset({"token_type", "expires_in", "scope", "error", "state"})


@dataclass(frozen=True, slots=True)
class LoginSettings:
    """The settings of `[credentials.NAME.login]`. `fields` are all that hold tokens."""

    token_urls: tuple[TokenUrl, ...]
    fields: tuple[str, ...] = TOKEN_FIELDS

    def captures(self, host: Host, target: str) -> bool:
        """Return True if the answer to a request may have tokens; `target` is in origin-form."""
        return any(one.host == host and one.matches(target) for one in self.token_urls)

    def swaps_at(self, scheme: str, host: Host, port: int) -> bool:
        """Return True if tokens may be sent to an origin in the body of a request."""
        return any(one.is_at(scheme, host, port) for one in self.token_urls)

    def is_at_host(self, host: Host) -> bool:
        """Return True if a token URL is at this host."""
        return any(one.host == host for one in self.token_urls)


def parse_login(
    name: str, *, token_urls: Sequence[str], fields: Sequence[str] = ()
) -> LoginSettings:
    """Check the settings of credential `name`. `fields` are more than TOKEN_FIELDS. Raises
    UsageError."""
    if not 1 <= len(token_urls) <= MAX_URLS:
        raise UsageError(
            f"credential {name}: expected 1 to {MAX_URLS} token URLs, got {len(token_urls)}",
            hint='as in token_urls = ["https://auth.example.com/oauth/token"]',
        )
    for one in fields:
        if not one.isprintable() or not one.isascii() or not one or one in _NO_TOKENS:
            raise UsageError(
                f"credential {name}: expected the name of a field that holds a token, got {one!a}",
                hint='as in fields = ["session_token"]',
            )
    if len(fields) > MAX_FIELDS:
        raise UsageError(f"credential {name}: expected at most {MAX_FIELDS} fields")
    urls = tuple(parse_token_url(name, one) for one in token_urls)
    return LoginSettings(urls, tuple(dict.fromkeys((*TOKEN_FIELDS, *fields))))
