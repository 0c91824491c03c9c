"""The credentials of one session: their sources, and the stand-ins that were made for them.

Rules of this file:
- All sources are read before the cage is made, at the same time. A secret that is missing refuses
  the run, unless its credential is optional.
- A stand-in is made once, in the shape of the secret at the start, and stays while secrets rotate.
- No `repr` shows a stand-in or a secret.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.credential import COMMAND, Place, parse_source
from nono_trio.core.credentials.secret import Secret
from nono_trio.core.credentials.shape import UnfitSecret, stand_in_like
from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError
from nono_trio.session.credentials.access import (
    check_source,
    outside_environment,
    without_credentials,
)
from nono_trio.session.credentials.held_secret import HeldSecret as HeldSecret
from nono_trio.session.credentials.readers import SourceFailed, make_reader
from nono_trio.session.credentials.sources import SecretSource, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nono_trio.core.credentials.credential import Credential, Source
    from nono_trio.session.credentials.readers import Reader
    from nono_trio.session.opened_files import OpenedFiles
    from nono_trio.session.tokens.token_endpoint import Route

_CONTROL: Final = late_pattern(rb"[\x00-\x1f\x7f]")
_ONE_LINE: Final = frozenset({Place.HEADER, Place.BASIC})  # places that take no line break


def no_route() -> Route:
    """Raise for a session that reaches no token endpoint."""
    raise AssertionError("this session has no route to a token endpoint")


@dataclass
class SessionCredentials:
    """The credentials that have a stand-in; `warnings` are sentences for the user."""

    held: tuple[HeldSecret, ...]
    warnings: list[str]

    def close(self) -> None:
        """End what still asks for a secret."""
        for one in self.held:
            one.source.close()


def open_credentials(
    credentials: Sequence[Credential],
    environment: Mapping[str, str],
    opened: OpenedFiles | None = None,
    route: Callable[[], Route] = no_route,
) -> SessionCredentials:
    """Read all secrets and make the stand-ins. Blocks, bounded; main thread, before the loop.

    `environment` is the caller's, `opened` what the command may reach (None: no command). `route`
    returns how token endpoints are reached; it is called if there is one. Raises UsageError. If
    interrupted, nothing is left running.
    """
    credentials = [one for one in credentials if one.login is None]
    parsed = [_sources(one) for one in credentials]
    warnings: list[str] = []
    if opened is not None:
        for one, sources in zip(credentials, parsed, strict=True):
            owner = f"credential {one.name}"
            found = (check_source(owner, source, opened, environment) for source in sources)
            warnings += [warning for warning in found if warning is not None]
    asked: list[tuple[Credential, SecretSource]] = []
    for one, sources in zip(credentials, parsed, strict=True):
        own = [
            _environment_for(one, source, credentials, environment, opened) for source in sources
        ]
        try:
            readers = [*map(make_reader, sources, own)]
            asked.append((one, _source_of(one, sources, readers, route)))
        except SourceFailed as failed:
            warnings.append(_missing(one, failed))
    failures = read_all([reading for _, reading in asked])
    held: list[HeldSecret] = []
    try:
        for (one, reading), failure in zip(asked, failures, strict=True):
            if failure is not None:
                warnings.append(_missing(one, failure))
            else:
                held.append(_hold(one, reading, [other.stand_in for other in held]))
    except BaseException:
        for _, reading in asked:
            reading.close()
        raise
    return SessionCredentials(tuple(held), warnings)


def _sources(credential: Credential) -> list[Source]:
    return [parse_source(credential.name, one) for one in credential.references]


def _source_of(
    credential: Credential,
    sources: Sequence[Source],
    readers: Sequence[Reader],
    route: Callable[[], Route],
) -> SecretSource:
    """Return what reads the secret; `readers` are of the sources that the credential names."""
    if credential.kind == "sigv4":
        from nono_trio.session.credentials.aws import keys_source  # late: few sessions have them

        return keys_source(sources, readers, credential.ttl)
    source, reader = sources[0], readers[0]
    if credential.oauth2 is None:
        return SecretSource(source.kind, reader, credential.ttl)
    from nono_trio.session.credentials.client_credentials import (  # late: few sessions have one
        client_credentials_reader,
    )

    fetched = client_credentials_reader(credential.oauth2, reader, route())
    return SecretSource(credential.kind, fetched, credential.ttl)


def _environment_for(
    credential: Credential,
    source: Source,
    credentials: Sequence[Credential],
    environment: Mapping[str, str],
    opened: OpenedFiles | None,
) -> Mapping[str, str]:
    """Return the environment of a credential's command line: without variables of the others, and
    without those that lead to what the command may write."""
    if source.kind != COMMAND:
        return environment
    others = [one for one in credentials if one is not credential]
    own = {name: environment[name] for name in credential.variables if name in environment}
    return outside_environment({**without_credentials(environment, others), **own}, opened)


def _missing(credential: Credential, failure: SourceFailed) -> str:
    """Return the warning about an optional credential; raises UsageError for another."""
    if not credential.optional:
        said = f": {failure.said}" if failure.said else ""
        raise UsageError(f"credential {credential.name}: {failure.reason}{said}", hint=failure.hint)
    return f"credential {credential.name} has no secret, and no stand-in: {failure.reason}"


def _hold(credential: Credential, source: SecretSource, taken: Sequence[bytes]) -> HeldSecret:
    if credential.kind == "sigv4":
        from nono_trio.session.credentials.aws import hold_keys  # late, as above

        return hold_keys(credential, source)
    name, value = credential.name, source.at_start.reveal()
    if credential.places <= _ONE_LINE and _CONTROL.search(value):
        raise UsageError(
            f"credential {name}: the secret has a line break or a control character, which no"
            " header can carry",
            hint="its source must give the secret alone, in one line",
        )
    try:
        stand_in = stand_in_like(value, secrets.randbelow)
        while stand_in in taken:  # they differ in 64 bits
            stand_in = stand_in_like(value, secrets.randbelow)
    except UnfitSecret as unfit:
        raise UsageError(
            f"credential {name}: the secret {unfit.reason}",
            hint="it could not be told from other text; see what its source gives",
        ) from None
    return HeldSecret(credential, stand_in, value, source, _client_secret(source))


def _client_secret(source: SecretSource) -> bytes | None:
    """Return what was exchanged for the secret, if it was."""
    client = getattr(source.reader, "client_secret", None)
    return client.reveal() if isinstance(client, Secret) else None
