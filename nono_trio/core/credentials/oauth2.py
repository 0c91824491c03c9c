"""OAuth 2.0 client credentials (RFC 6749 4.4): a client's own id and secret are exchanged for a
token.

Rules of this file:
- The client's secret is a source like any other; the settings hold its reference, not its value.
- With `basic`, id and secret are form-encoded before base64 (RFC 6749 2.3.1).
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import quote_plus, urlencode

from nono_trio.core.credentials.token_url import TokenUrl, parse_token_url
from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

Auth: TypeAlias = Literal["basic", "post"]
AUTHS: Final = ("basic", "post")

MARGIN: Final = 60  # seconds before its end in which a token is not used any more
MAX_TEXT: Final = 4096  # characters of id, audience and scopes together
_PRINTABLE: Final = late_pattern(r"[\x20-\x7e]+")  # RFC 6749 appendix A
_SCOPE: Final = late_pattern(r"[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True, slots=True)
class OAuth2Settings:
    """The settings of `[credentials.NAME.oauth2]`. `client_secret` is a reference to a source."""

    token_url: TokenUrl
    client_id: str
    client_secret: str
    scopes: tuple[str, ...] = ()
    audience: str | None = None
    auth: Auth = "basic"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A POST for a token: fields and body. Its `repr` shows neither."""

    fields: tuple[tuple[str, str], ...]
    body: bytes

    def __repr__(self) -> str:
        return "TokenRequest(...)"


def parse_oauth2(
    name: str,
    *,
    token_url: str,
    client_id: str,
    client_secret: str,
    scopes: Sequence[str] = (),
    audience: str | None = None,
    auth: str = "basic",
) -> OAuth2Settings:
    """Check the settings of credential `name`, but for the reference `client_secret`, which is
    checked as any source. Raises UsageError."""
    url = parse_token_url(name, token_url)
    where = f"credential {name}"
    if auth not in AUTHS:
        hint = "basic sends id and secret in the field Authorization, post in the form"
        raise UsageError(f"{where}: expected auth basic or post, got {auth!a}", hint=hint)
    for key, text in (("client_id", client_id), ("audience", audience)):
        if text is not None and not _PRINTABLE.fullmatch(text):
            raise UsageError(f"{where}: expected printable ASCII in {key}", hint=f'{key} = "..."')
    for scope in scopes:
        if not _SCOPE.fullmatch(scope):
            hint = 'each scope is a text of its own: scopes = ["read", "write"]'
            raise UsageError(f"{where}: expected a scope, got {scope!a}", hint=hint)
    if len(client_id) + len(audience or "") + sum(map(len, scopes)) > MAX_TEXT:
        raise UsageError(f"{where}: expected at most {MAX_TEXT} characters of settings")
    chosen: Auth = "post" if auth == "post" else "basic"
    return OAuth2Settings(url, client_id, client_secret, tuple(scopes), audience, chosen)


def token_request(settings: OAuth2Settings, secret: bytes) -> TokenRequest:
    """Return the request for a token."""
    form: list[tuple[str, str | bytes]] = [("grant_type", "client_credentials")]
    if settings.scopes:
        form.append(("scope", " ".join(settings.scopes)))
    if settings.audience is not None:
        form.append(("audience", settings.audience))
    fields = [
        ("Host", settings.token_url.authority),
        ("Accept", "application/json"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("User-Agent", "nono-trio"),
        ("Connection", "close"),
    ]
    if settings.auth == "post":
        form += [("client_id", settings.client_id), ("client_secret", secret)]
    else:
        pair = f"{quote_plus(settings.client_id)}:{quote_plus(secret)}"
        fields.append(("Authorization", f"Basic {b64encode(pair.encode()).decode()}"))
    return TokenRequest(tuple(fields), urlencode(form).encode())
