"""The sources of AWS keys: one for all of them, or one for each.

Rules of this file: one source for all gives the JSON of a `credential_process`. With one for each,
the credential's own source gives the access key id. Without any they are AWS's variables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AWS_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True)
class AwsSources:
    """References to the other two parts of the keys, beside the one to the access key id."""

    secret_access_key: str
    session_token: str | None = None

    @property
    def all(self) -> tuple[str, ...]:
        """Both, or the one that there is."""
        token = () if self.session_token is None else (self.session_token,)
        return (self.secret_access_key, *token)


class FoundSources(NamedTuple):
    """The source of a credential that signs; `others` is None if it gives all of the keys."""

    source: str
    others: AwsSources | None


def find_sources(
    name: str,
    source: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    environment: Mapping[str, str],
) -> FoundSources:
    """Return the sources of credential `name` from what its user wrote, unparsed. Raises
    UsageError."""
    if source is not None and secret_access_key is None and session_token is None:
        return FoundSources(source, None)
    if source is None and secret_access_key is None and session_token is None:
        key_id, secret, token = (f"env://{one}" for one in AWS_VARIABLES)
        has_token = bool(environment.get(AWS_VARIABLES[2]))
        return FoundSources(key_id, AwsSources(secret, token if has_token else None))
    if source is None or secret_access_key is None:
        raise UsageError(
            f"credential {name}: expected the source of the access key id and that of the secret"
            " access key",
            hint=f"set both source and secret_access_key in [credentials.{name}], or leave all out"
            " for AWS's variables",
        )
    return FoundSources(source, AwsSources(secret_access_key, session_token))


def check_aws_variables(name: str, variables: Sequence[str]) -> None:
    """Raise UsageError for variables that are not those of id, secret and session token."""
    if len(variables) != len(AWS_VARIABLES) or len(set(variables)) != len(variables):
        raise UsageError(
            f"credential {name}: expected three variables, for id, secret and session token",
            hint=f"as in variables = {[*AWS_VARIABLES]}",
        )
