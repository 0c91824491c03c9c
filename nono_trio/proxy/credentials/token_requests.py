"""Requests to the token URL of a captured login: their bodies get tokens, their answers lose them.

Rules of this file:
- The body is read whole first, up to 64 KiB (proxy/http/message_body.py); a longer one is refused,
  because a stand-in in it could not be swapped.
- Tokens go into fields of the body (core/credentials/login_tokens.py), and only at the URL's own
  origin. Answers are captured at every port and scheme of its host.
- The server is asked for an answer without an encoding.
- Neither a token nor a stand-in is in a `repr`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.core.credentials.login_tokens import TokenQuestion

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nono_trio.core.credentials.credential import Credential
    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.login_tokens import LoginTokens
    from nono_trio.core.http.header_fields import Field
    from nono_trio.core.net.host import Host
    from nono_trio.proxy.credentials.interfaces import HeldCredential

ENCODING_FIELD: Final = b"accept-encoding"


class Login(Protocol):
    """A captured login of this session; session/tokens has the implementation."""

    credential: Credential
    settings: LoginSettings
    tokens: LoginTokens
    changed: Callable[[], None]
    """Called when `held` is another."""

    @property
    def held(self) -> Sequence[HeldCredential]:
        """Its tokens now, each with its stand-in."""
        ...

    async def answered(
        self, question: TokenQuestion, content_type: bytes | None, body: bytes, *, is_success: bool
    ) -> bytes:
        """Take an answer; return what the command gets. Raises BadAnswer. The time is bounded."""
        ...


class TokenRequest:
    """One request to a token URL. It takes the answer too (`TakesAnswer`)."""

    __slots__ = ("_login", "_question", "_swaps")

    def __init__(self, login: Login, scheme: str, host: Host, port: int) -> None:
        self._login = login
        self._swaps = login.settings.swaps_at(scheme, host, port)
        self._question: TokenQuestion | None = None

    def __repr__(self) -> str:
        return f"TokenRequest({self.name})"

    @property
    def name(self) -> str:
        """The name of the login."""
        return self._login.credential.name

    @property
    def has_tokens(self) -> bool:
        """True if tokens were swapped into the body."""
        return self._question is not None and bool(self._question.used)

    def take_body(self, content_type: bytes | None, body: bytes) -> bytes:
        """Return the body to send."""

        tokens = self._login.tokens
        self._question = tokens.question(content_type, body) if self._swaps else TokenQuestion(body)
        return self._question.body

    def check_fields(self, fields: Sequence[Field]) -> None:
        """As `TakesAnswer.check_fields`."""
        self._question = self._login.tokens.with_head(self._asked, fields)

    async def answered(self, content_type: bytes | None, body: bytes, *, is_success: bool) -> bytes:
        """As `TakesAnswer.answered`."""
        return await self._login.answered(self._asked, content_type, body, is_success=is_success)

    @property
    def _asked(self) -> TokenQuestion:
        if self._question is None:
            raise AssertionError("the request was not sent")
        return self._question
