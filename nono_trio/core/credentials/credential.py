"""A credential: a name, where its secret comes from, and where its stand-in is swapped for it.

A *secret* is the real value. A *stand-in* is what the command gets instead. A *bound host* is one
to which the proxy sends the secret. A *place* is a part of a request in which it swaps.

Rules of this file:
- No value here holds a secret: `source` is a reference, as in env://VARIABLE.
- Each check raises UsageError with the name of the credential and a hint.
- A bound host names one port. Without one it is 443, or 80 after http://. It is seen over verified
  TLS; only http:// sends the secret in clear, and never to a public address.
- `*.SUFFIX` needs two labels, and `check_wildcards` refuses one below which anybody may register.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

from nono_trio.core.credentials.aws_scope import is_service_suffix
from nono_trio.core.late import late_pattern
from nono_trio.core.net.address import AddressClass, classify
from nono_trio.core.policy.rule import ALLOW_FLAG, ANY_PORT, HTTP_PORT, TLS_PORT, Rule, parse_allow
from nono_trio.core.policy.variables import check_set
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nono_trio.core.credentials.aws_sources import AwsSources
    from nono_trio.core.credentials.login import LoginSettings
    from nono_trio.core.credentials.oauth2 import OAuth2Settings
    from nono_trio.core.net.host import Host

CREDENTIAL_FLAG: Final = "--credential"
MAX_TTL: Final = 24 * 3600  # seconds; a secret that lasts longer is asked for again all the same
MAX_HOSTS: Final = 64  # of one credential; the longest preset has 34

ENVIRONMENT: Final = "env"
FILE: Final = "file"
KEYRING: Final = "keyring"
KEYRING_EXTRA: Final = "nono-trio[keyring]"  # what pip installs for it
COMMAND: Final = "cmd"

_NAME: Final = late_pattern(r"[a-z0-9_-]{1,32}")
_SCHEME: Final = late_pattern(r"(https?)://(.*)", re.IGNORECASE | re.DOTALL)
_SOURCE: Final = late_pattern(r"(env|file|keyring|cmd)://(.*)", re.DOTALL)
_FIELD_NAME: Final = late_pattern(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_VARIABLE: Final = late_pattern(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG_AND_ENTRY: Final = late_pattern(rf"^{ALLOW_FLAG} (?:'[^']*'|\"[^\"]*\"): ")
_SOURCE_FORMS: Final = (
    "a source is env://VARIABLE, file:///PATH, keyring://SERVICE/USER or cmd://COMMAND LINE"
)
_HOST_FORMS: Final = (
    "a bound host is HOST[:PORT] or *.SUFFIX[:PORT]; http:// before it is for a private service"
)


class Place(StrEnum):
    """A part of a request in which the stand-in is swapped."""

    HEADER = "header"  # the value of one of the credential's fields, or a whole token in it
    BASIC = "basic"  # user or password in Authorization: Basic
    QUERY = "query"  # the whole value of one of the credential's parameters
    PATH = "path"
    BODY = "body"  # a string of JSON, or a value of a form


DEFAULT_PLACES: Final = frozenset({Place.HEADER, Place.BASIC})

# The fields in which servers expect a credential. No others: many servers send a field such as
# Origin, X-Request-Id, Idempotency-Key or an object's metadata back, and the command would read the
# secret there.
DEFAULT_HEADERS: Final = frozenset(
    """
    authorization api-key apikey x-api-key x-apikey x-goog-api-key xi-api-key x-rapidapi-key
    private-token job-token deploy-token circle-token x-auth-token x-auth-key x-access-token
    x-authorization x-token x-vault-token x-figma-token x-gitlab-token x-shopify-access-token
    x-subscription-token x-newrelic-api-key x-algolia-api-key dd-api-key dd-application-key
    ocp-apim-subscription-key x-functions-key x-amz-security-token
    """.split()  # noqa: SIM905  (names read better as text)
)
# Parameters of a query in which servers expect one; others come back in error texts and links.
DEFAULT_PARAMETERS: Final = frozenset(
    "key api_key apikey api-key access_token private_token token auth_token".split()  # noqa: SIM905
)
# Fields that route or frame a message, or that the proxy writes.
FRAMING_HEADERS: Final = frozenset(
    """
    host content-length content-type content-encoding transfer-encoding connection upgrade te
    trailer expect keep-alive proxy-authorization
    """.split()  # noqa: SIM905
)

Elsewhere: TypeAlias = Literal["deny", "audit"]
"""A request with the stand-in to another host is refused, or is only recorded."""

Kind: TypeAlias = Literal["token", "sigv4", "oauth2", "login"]
"""A value that is swapped, a key that signs, one that is exchanged for tokens first, or tokens that
the command gets by signing in."""


@dataclass(frozen=True, slots=True)
class BoundHost:
    """A host to which the secret goes. `host` is the suffix when `wildcard` is set."""

    text: str
    scheme: Literal["http", "https"]
    host: Host
    wildcard: bool
    port: int

    @property
    def origin(self) -> str:
        """The host as a URL without a path, as endpoint rules have it."""
        authority = ("*." if self.wildcard else "") + self.host.bracketed()
        default = HTTP_PORT if self.scheme == "http" else TLS_PORT
        return f"{self.scheme}://{authority}" + (f":{self.port}" if self.port != default else "")

    @property
    def rule(self) -> Rule:
        """The entry that opens the host."""
        return Rule(self.text, self.host, self.wildcard, (self.port,))

    def covers(self, scheme: str, host: Host, port: int) -> bool:
        """Return True if a request with this scheme, host and port gets the secret."""
        return scheme == self.scheme and port == self.port and self.names(host)

    def names(self, host: Host) -> bool:
        """Return True if this entry is for `host`, on whatever port."""
        if not self.wildcard:
            return host.name == self.host.name
        return host.address is None and host.name.endswith(f".{self.host.name}")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed reference to a secret; `kind` is ENVIRONMENT, FILE, KEYRING or COMMAND.

    `words` are the variable, the path (~/ is not expanded), service and user, or the command line.
    """

    kind: str
    words: tuple[str, ...]

    @property
    def shown(self) -> str:
        """The source as it is shown and recorded: a command line may have a password in it."""
        return f"{ENVIRONMENT}://{self.words[0]}" if self.kind == ENVIRONMENT else self.kind


@dataclass(frozen=True, slots=True)
class Credential:
    """One credential with all its settings.

    `headers` (lower-case) and `parameters` (in any case) are those that the places mean.
    `variables` get the stand-in in the command's environment, and `files` are shown to it with the
    stand-in in the secret's place. `base_url_variables` are for a reverse route, and have
    `base_url_path` after its name. `endpoints` are entries of --allow-endpoint for the bound hosts,
    unless the user has rules for a host. `ttl` is for how many seconds the answer of a command or
    the keyring is used; None is the default. With `oauth2`, `source` has the client's secret, and
    the secret of the credential is a token. With `login` the source is "", and each token that
    comes has a stand-in. With `aws`, `source` has the id of a key that signs. `route` says that
    there is a reverse route.
    """

    name: str
    source: str
    hosts: tuple[BoundHost, ...]
    places: frozenset[Place] = DEFAULT_PLACES
    variables: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    optional: bool = False
    elsewhere: Elsewhere = "deny"
    kind: Kind = "token"
    base_url_variables: tuple[str, ...] = ()
    base_url_path: str = ""
    endpoints: tuple[str, ...] = ()
    ttl: int | None = None
    headers: frozenset[str] = DEFAULT_HEADERS
    parameters: frozenset[str] = DEFAULT_PARAMETERS
    oauth2: OAuth2Settings | None = None
    login: LoginSettings | None = None
    aws: AwsSources | None = None
    route: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        """The references to all of its sources; none for a login."""
        own = (self.source,) if self.source else ()
        return own if self.aws is None else (*own, *self.aws.all)

    @property
    def all_variables(self) -> frozenset[str]:
        """Its variables, and those that its sources name."""
        sources = [parse_source(self.name, one) for one in self.references]
        named = (one.words[0] for one in sources if one.kind == ENVIRONMENT)
        return frozenset((*self.variables, *named))

    @property
    def source_shown(self) -> str:
        """The kind of its source, and the name of a variable."""
        shown = ", ".join(parse_source(self.name, one).shown for one in self.references)
        if self.login is not None:
            return "login"
        return shown if self.oauth2 is None else f"oauth2 with {shown}"

    @property
    def is_at_hand(self) -> bool:
        """True if its secret is read without running a program or asking the keyring."""
        kinds = {parse_source(self.name, one).kind for one in self.references}
        return self.login is None and self.oauth2 is None and kinds <= {ENVIRONMENT, FILE}

    def is_bound_to(self, scheme: str, host: Host, port: int) -> bool:
        """Return True if a request with this scheme, host and port gets the secret."""
        return any(one.covers(scheme, host, port) for one in self.hosts)


def check_name(name: str) -> None:
    """Raise UsageError for a text that is no name of a credential."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{CREDENTIAL_FLAG} {name!a}: expected a name of at most 32 lower-case letters, digits,"
            " - and _",
            hint=f"as in {CREDENTIAL_FLAG} github, or {CREDENTIAL_FLAG} my-api=env://MY_API_KEY"
            "@api.example.com",
        )


def parse_source(name: str, text: str) -> Source:
    """Parse the reference to the secret of credential `name`. Raises UsageError.

    The text is not repeated in the error: it may be a secret that was written in its place.
    """
    match = _SOURCE.fullmatch(text)
    if match is None:
        _refuse(name, "expected a reference to the secret, not the secret itself", _SOURCE_FORMS)
    kind, rest = match[1], match[2]
    if "\0" in rest or not rest.strip():
        _refuse(name, f"expected a text after {kind}://", _SOURCE_FORMS)
    if kind == ENVIRONMENT:
        if not _VARIABLE.fullmatch(rest):
            _refuse(name, "expected the name of a variable after env://", "as in env://MY_API_KEY")
        return Source(kind, (rest,))
    if kind == FILE:
        if not rest.startswith(("/", "~/")):
            _refuse(name, "expected a whole path after file://", f"write file://{_absolute(rest)}")
        return Source(kind, (rest,))
    return Source(kind, _keyring_words(name, rest) if kind == KEYRING else _command(name, rest))


def parse_bound_host(name: str, text: str) -> BoundHost:
    """Parse one bound host of credential `name`. Raises UsageError."""
    match = _SCHEME.fullmatch(text)
    scheme: Literal["http", "https"] = "https"
    entry = text
    if match is not None:
        scheme = "http" if match[1].lower() == "http" else "https"
        entry = match[2].removesuffix("/")
    rule = _parse_host(name, text, entry, HTTP_PORT if scheme == "http" else TLS_PORT)
    if ANY_PORT in rule.ports:
        _refuse_host(name, text, "expected one port, got all", "name each port in its own entry")
    address = rule.host.address
    if scheme == "http" and address is not None and classify(address) is AddressClass.PUBLIC:
        _refuse_host(
            name, text, "the secret would cross the network in clear", f"write https://{entry}"
        )
    if rule.wildcard and "." not in rule.host.name:
        _refuse_wildcard(name, text)
    return BoundHost(text, scheme, rule.host, rule.wildcard, rule.ports[0])


def parse_places(name: str, texts: Iterable[str]) -> frozenset[Place]:
    """Parse the places of credential `name`; at least one. Raises UsageError."""
    places = set[Place]()
    for text in texts:
        if text not in [*Place]:
            _refuse(name, f"expected a place, got {text!a}", f"places are {', '.join(Place)}")
        places.add(Place(text))
    if not places:
        _refuse(name, "expected at least one place", f"places are {', '.join(Place)}")
    return frozenset(places)


def parse_headers(name: str, headers: Iterable[str]) -> frozenset[str]:
    """Return the fields in lower case in which credential `name` is swapped. Raises UsageError."""
    found = frozenset(one.lower() for one in headers)
    for one in found:
        if not _FIELD_NAME.fullmatch(one):
            _refuse(name, f"expected the name of a header, got {one!a}", "as in X-Api-Key")
        if one in FRAMING_HEADERS:
            _refuse(name, f"the header {one} can't carry a secret", "as in X-Api-Key")
    return found


def check_variables(name: str, variables: Iterable[str]) -> None:
    """Raise UsageError for a variable that can't be set in the command's environment."""
    for one in variables:
        try:
            check_set(one)
        except UsageError as error:
            _refuse(name, error.message, error.hint or "as in MY_API_KEY")


def check_ttl(name: str, seconds: int | None) -> None:
    """Raise UsageError for a time that is not 1 second to a day."""
    if seconds is not None and not 1 <= seconds <= MAX_TTL:
        hint = "as in ttl = 900; the secret is asked for again before the time ends"
        _refuse(name, f"expected a ttl from 1 to {MAX_TTL} seconds, got {seconds}", hint)


def check_wildcards(credential: Credential, is_public: Callable[[str], bool]) -> None:
    """Raise UsageError for a wildcard over a suffix for which `is_public` returns True.

    Whoever registers a name below such a suffix would be sent the secret.
    """
    for one in credential.hosts:
        if credential.kind == "sigv4" and is_service_suffix(one.host.name):
            continue  # AWS runs all hosts there, and they get a signature only
        if one.wildcard and is_public(one.host.name):
            _refuse_wildcard(credential.name, one.text)


def _keyring_words(name: str, rest: str) -> tuple[str, ...]:
    service, slash, user = rest.rpartition("/")
    if not slash or not service or not user:
        hint = "as in keyring://example-service/alice"
        _refuse(name, "expected SERVICE/USER after keyring://", hint)
    return service, user


def _command(name: str, rest: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(rest))
    except ValueError:
        hint = "quote the words of the command line as for a shell"
        _refuse(name, "the command line has a quote without its end", hint)
    if not words:
        _refuse(name, "expected a command line after cmd://", "as in cmd://pass show example")
    return words


def _absolute(path: str) -> str:
    return f"~/{path.removeprefix('./')}" if path.isprintable() and ".." not in path else "/PATH"


def _parse_host(name: str, text: str, entry: str, default_port: int) -> Rule:
    """Parse an entry as --allow-domain does; one without a port is for the default port."""
    if "://" in entry:
        _refuse_host(name, text, "expected a host, http://HOST or https://HOST", _HOST_FORMS)
    bare_v6 = entry.count(":") > 1 and "[" not in entry
    has_port = not bare_v6 and ":" in entry.rpartition("]")[2]
    whole = f"[{entry}]" if bare_v6 else entry
    try:
        return parse_allow(whole if has_port else f"{whole}:{default_port}")
    except UsageError as error:
        reason = _FLAG_AND_ENTRY.sub("", error.message)
        hint = (error.hint or _HOST_FORMS).replace(f"{ALLOW_FLAG} ", "")
        _refuse_host(name, text, reason, _HOST_FORMS if "HOST:*" in hint else hint)


def _refuse_wildcard(name: str, text: str) -> NoReturn:
    hint = "name each host that is meant"
    _refuse_host(name, text, "anybody may register a name that this covers", hint)


def _refuse_host(name: str, text: str, reason: str, hint: str) -> NoReturn:
    _refuse(name, f"host {text!a}: {reason}", hint)


def _refuse(name: str, reason: str, hint: str) -> NoReturn:
    raise UsageError(f"credential {name}: {reason}", hint=hint)
