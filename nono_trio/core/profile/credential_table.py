"""`[credentials.NAME]`: one credential as a table of a profile.

Rules of this file:
- Each key is declared once, with its help for the docs.
- A list adds up over profiles, a single value of a later one replaces an earlier one's.
- Each key is checked alone, because a profile may add to a table that another one begins.
  config/credentials.py checks the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

import msgspec

from nono_trio.core.credentials import credential as checks
from nono_trio.core.credentials.login import parse_login
from nono_trio.core.credentials.oauth2 import parse_oauth2
from nono_trio.core.policy.endpoint_rule import parse_endpoint
from nono_trio.core.profile.values import check_entry
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.oauth2 import OAuth2Settings

KeyMerge: TypeAlias = Literal["adds_up", "replaces"]


class OAuth2Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[credentials.NAME.oauth2]`: a client whose id and secret are exchanged for a token."""

    token_url: str
    client_id: str
    client_secret: str
    scopes: list[str] = []
    audience: str | None = None
    auth: Literal["basic", "post"] = "basic"

    def settings(self, name: str) -> OAuth2Settings:
        """Check the table. Raises UsageError."""
        checks.parse_source(name, self.client_secret)
        return parse_oauth2(name, **msgspec.structs.asdict(self))


class LoginTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[credentials.NAME.login]`: the command signs in itself, and its tokens are captured."""

    token_urls: list[str]
    fields: list[str] = []

    def settings(self, name: str) -> LoginSettings:
        """Check the table. Raises UsageError."""
        return parse_login(name, **msgspec.structs.asdict(self))


class CredentialTable(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The keys of a table; what is left out is the preset's, if the name is that of a service."""

    source: str | None = None
    hosts: list[str] = []
    places: list[str] = []
    headers: list[str] = []
    parameters: list[str] = []
    variables: list[str] = []
    files: list[str] = []
    endpoints: list[str] = []
    optional: bool | None = None
    elsewhere: Literal["deny", "audit"] | None = None
    ttl: int | None = None
    oauth2: OAuth2Table | None = None
    login: LoginTable | None = None
    route: bool | None = None
    kind: Literal["token", "sigv4"] | None = None
    secret_access_key: str | None = None
    session_token: str | None = None


class CredentialKey(NamedTuple):
    """A key for the docs and the template."""

    name: str
    merge: KeyMerge
    example: str
    help: str


KEYS: Final = (
    CredentialKey(
        "source", "replaces", '"env://MY_API_KEY"',
        "Where the secret is: env://VARIABLE, file:///PATH, keyring://SERVICE/USER or"
        " cmd://COMMAND LINE, which runs outside of the cage and has no shell.",
    ),
    CredentialKey(
        "hosts", "adds_up", '["api.example.com"]',
        "The hosts to which the secret may go: HOST[:PORT], *.SUFFIX[:PORT], or http://HOST[:PORT]"
        " for a private service. They are opened, and their requests are seen.",
    ),
    CredentialKey(
        "places", "adds_up", '["header", "basic"]',
        "The parts of a request in which the stand-in is swapped: header, basic, query, path,"
        " body.",
    ),
    CredentialKey(
        "headers", "adds_up", '["X-Api-Key"]',
        "The header fields that `header` means, instead of the usual ones.",
    ),
    CredentialKey(
        "parameters", "adds_up", '["key"]',
        "The parameters that `query` means, instead of the usual ones.",
    ),
    CredentialKey(
        "variables", "adds_up", '["MY_API_KEY"]', "The variables in which the command gets it.",
    ),
    CredentialKey(
        "files", "adds_up", '["~/.netrc"]',
        "Your files that the command sees with the stand-in in the secret's place.",
    ),
    CredentialKey(
        "endpoints", "adds_up", '["GET https://api.example.com/**"]',
        "What the command may ask of these hosts, as in --allow-endpoint.",
    ),
    CredentialKey(
        "optional", "replaces", "true", "Run without it if there is no secret.",
    ),
    CredentialKey(
        "elsewhere", "replaces", '"audit"',
        "deny: a request to another host that carries the stand-in is refused. audit: it is only"
        " recorded.",
    ),
    CredentialKey(
        "ttl", "replaces", "900", "Seconds for which what a command or the keyring gave is used.",
    ),
    CredentialKey(
        "oauth2", "replaces",
        '{ token_url = "https://auth.example.com/token", client_id = "me",'
        ' client_secret = "env://CLIENT_SECRET" }',
        "Fetch a token for a client's id and secret (OAuth 2.0 client credentials); also scopes,"
        ' audience, auth = "basic" or "post".',
    ),
    CredentialKey(
        "login", "replaces", '{ token_urls = ["https://auth.example.com/token"] }',
        "Capture the tokens when the command signs in itself: it gets stand-ins. Also `fields`,"
        " more names of fields that hold tokens.",
    ),
    CredentialKey(
        "route", "replaces", "true",
        "Give it a reverse route for clients that can't be intercepted: a base URL on the proxy.",
    ),
    CredentialKey(
        "kind", "replaces", '"sigv4"',
        "token: a value that is swapped. sigv4: AWS keys, by which the proxy signs requests anew;"
        " without sources they are read from AWS's variables. One `source` alone gives all of the"
        " keys, as a credential_process prints them.",
    ),
    CredentialKey(
        "secret_access_key", "replaces", '"env://AWS_SECRET_ACCESS_KEY"',
        "For sigv4: the source of the secret access key, where `source` gives the access key id.",
    ),
    CredentialKey(
        "session_token", "replaces", '"env://AWS_SESSION_TOKEN"',
        "For sigv4: the source of the session token.",
    ),
)  # fmt: skip


def merge_tables(
    base: dict[str, CredentialTable], over: dict[str, CredentialTable]
) -> dict[str, CredentialTable]:
    """Put the tables of one profile on those of another, by name and by key."""
    merged = dict(base)
    for name, table in over.items():
        before = base.get(name)
        merged[name] = table if before is None else _merged(before, table)
    return merged


def check_key(name: str, key: str, value: Any) -> None:  # noqa: ANN401  (as the key has it)
    """Raise UsageError for a value, of a list one entry, that can't be meant."""
    check = _CHECKS.get(key)
    if check is None or value is None:
        return
    try:
        check(name, value)
    except UsageError as error:
        message = error.message.removeprefix(f"credential {name}: ")
        raise UsageError(message, hint=error.hint) from None


def _merged(base: CredentialTable, over: CredentialTable) -> CredentialTable:
    found: dict[str, Any] = {}
    for one in KEYS:
        before, after = getattr(base, one.name), getattr(over, one.name)
        if one.merge == "adds_up":
            found[one.name] = list(dict.fromkeys([*before, *after]))
        else:
            found[one.name] = before if after is None else after
    return CredentialTable(**found)


_CHECKS: Final[dict[str, Callable[[str, Any], object]]] = {
    "source": checks.parse_source,
    "hosts": checks.parse_bound_host,
    "places": lambda name, text: checks.parse_places(name, [text]),
    "headers": lambda name, text: checks.parse_headers(name, [text]),
    "variables": lambda name, text: checks.check_variables(name, [text]),
    "files": lambda _name, text: check_entry("path", text),
    "endpoints": lambda _name, text: parse_endpoint("endpoints", text, "allow"),
    "ttl": checks.check_ttl,
    "oauth2": lambda name, table: table.settings(name),
    "login": lambda name, table: table.settings(name),
    "secret_access_key": checks.parse_source,
    "session_token": checks.parse_source,
}
