"""A source that exchanges a client's id and secret for a token (OAuth 2.0 client credentials).

Rules of this file:
- It reads as any source does (session/credentials/readers.py): `read` blocks, in a thread.
- A token is used until a margin before its end; without expires_in it has no time of its own.
- An answer that names no token is an error with the code of RFC 6749 5.2, and no text of the
  server's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.oauth2 import MARGIN, token_request
from nono_trio.core.credentials.secret import Secret
from nono_trio.core.credentials.token_answer import BadAnswer, read_token_answer
from nono_trio.core.late import late_pattern
from nono_trio.session.credentials.readers import SourceFailed
from nono_trio.session.tokens.token_endpoint import EndpointFailed, TokenEndpoint

if TYPE_CHECKING:
    from nono_trio.core.credentials.oauth2 import OAuth2Settings
    from nono_trio.session.credentials.readers import Reader
    from nono_trio.session.tokens.token_endpoint import Answer, Route

_TOKEN: Final = late_pattern(rb"[\x21-\x7e]+")  # RFC 6749 appendix A.12, without spaces
_HINT: Final = "see token_url, client_id, client_secret, auth and scopes in the profile"


class ClientCredentialsReader:
    """Fetches a token each time it is read."""

    def __init__(
        self, settings: OAuth2Settings, client_secret: Reader, endpoint: TokenEndpoint
    ) -> None:
        self._settings = settings
        self._reader = client_secret
        self._endpoint = endpoint
        self.client_secret: Secret | None = None
        """The one that was sent last."""

    def read(self) -> Secret:
        """Return a new token; blocks. Raises SourceFailed."""
        secret = self.client_secret = self._reader.read()
        try:
            answer = self._endpoint.post(token_request(self._settings, secret.reveal()))
        except EndpointFailed as failed:
            raise SourceFailed(f"no token: {failed.reason}", failed.hint) from None
        return self._token(answer)

    def stop(self) -> None:
        """End a read that runs in another thread, and let none begin."""
        self._reader.stop()
        self._endpoint.stop()

    def _token(self, answer: Answer) -> Secret:
        where = self._settings.token_url.authority
        if 300 <= answer.status < 400:
            raise SourceFailed(f"no token: {where} answered with a redirect", _HINT)
        try:
            found = read_token_answer(answer.content_type, answer.body, ("access_token",))
        except BadAnswer as bad:
            detail = f"status {answer.status}" if answer.status != 200 else bad.reason
            raise SourceFailed(f"no token: the answer of {where}: {detail}", _HINT) from None
        token = found.tokens.get("access_token")
        if token is None or answer.status != 200:
            detail = found.error or f"status {answer.status}"
            raise SourceFailed(f"no token: {where} refused: {detail}", _HINT)
        if not _TOKEN.fullmatch(token):
            raise SourceFailed(f"no token: the one of {where} has other characters than a token")
        # A short one is used for half of its time.
        lifetime = found.lifetime and max(found.lifetime - MARGIN, found.lifetime // 2, 1)
        return Secret(token, lifetime)


def client_credentials_reader(
    settings: OAuth2Settings, client_secret: Reader, route: Route
) -> ClientCredentialsReader:
    """Return the source of a token; `client_secret` reads the client's secret."""
    return ClientCredentialsReader(
        settings, client_secret, TokenEndpoint(settings.token_url, route)
    )
