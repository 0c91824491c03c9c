"""The tokens of one login, each with its stand-in: from the answers of its token endpoint.

Rules of this file:
- A token that comes again has the stand-in that it had. A new one has a new stand-in, because a
  client reads claims (the end of its time) out of a JWT, and they are others.
- A refresh token that was exchanged for another is forgotten. Access tokens stay for a while: other
  requests of the command may still carry them. At most MAX_TOKENS are kept, the newest.
- At a token URL only the fields of TOKEN_REQUEST_FIELDS are swapped, as whole values: servers send
  others (`state`, `scope`) back. An answer that has a token all the same is refused, in whatever
  encoding the search knows.
- No `repr` shows a token or a stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from nono_trio.core.credentials.search import StandInSearch
from nono_trio.core.credentials.shape import UnfitSecret, stand_in_like
from nono_trio.core.credentials.token_answer import (
    BadAnswer,
    may_hold_token,
    read_token_answer,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

MAX_TOKENS: Final = 48  # of a login: some accounts, and some hours of refreshes
REFRESH: Final = "refresh_token"
TOKEN_REQUEST_FIELDS: Final = (
    REFRESH,
    "access_token",
    "id_token",
    "token",  # RFC 7009 and 7662
    "subject_token",  # RFC 8693
    "actor_token",
)


@dataclass(frozen=True, slots=True)
class LoginToken:
    """A token, the `name` of the field that it came in, and what the command has instead."""

    name: str
    token: bytes = field(repr=False)
    stand_in: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """A request to a token URL as it is sent: `used` are the tokens that were swapped into it.

    `head` are the fields of its answer, once they are there."""

    body: bytes = field(repr=False)
    used: tuple[LoginToken, ...] = ()
    head: bytes = field(default=b"", repr=False)


class LoginTokens:
    """The tokens of one login, oldest first. `fields` are those of an answer that hold tokens."""

    def __init__(
        self,
        fields: Collection[str],
        draw: Callable[[int], int],
        kept: Iterable[LoginToken] = (),
    ) -> None:
        self._fields = fields
        self._draw = draw
        self.tokens = tuple(kept)[-MAX_TOKENS:]
        # Made when it is needed: for 48 tokens that takes 10 ms.
        self._search: tuple[tuple[LoginToken, ...], StandInSearch] | None = None

    def question(self, content_type: bytes | None, body: bytes) -> TokenQuestion:
        """Return a request to a token URL with tokens for stand-ins.

        A body that is neither JSON nor a form, or can be read in two ways, stays as it is: a
        stand-in is worth nothing to the server.
        """
        known = {one.stand_in: one for one in self.tokens}
        try:
            found = read_token_answer(content_type, body, TOKEN_REQUEST_FIELDS, is_request=True)
            used = tuple(known[value] for _, value in found.values if value in known)
            made = found.with_stand_ins({one.stand_in: one.token for one in used})
        except BadAnswer:
            return TokenQuestion(body)
        return TokenQuestion(made, used)

    def answered(
        self, question: TokenQuestion, content_type: bytes | None, body: bytes, *, is_success: bool
    ) -> bytes:
        """Take the answer to a question; return it with stand-ins for its tokens.

        `tokens` are others after it. Raises BadAnswer for an answer that must not go on. The body
        of an error may be anything that has no token, and nothing that looks like a new one.
        """
        try:
            found = read_token_answer(content_type, body, self._fields)
        except BadAnswer:
            if body and (is_success or may_hold_token(body, self._fields)):
                raise
            return self._checked(body)
        tokens = [self._token(name, value) for name, value in found.values]
        made = found.with_stand_ins({one.token: one.stand_in for one in tokens})
        made = self._checked(made, tokens)
        self._checked(question.head, tokens)
        if tokens:
            self._keep(question, tokens)
        return made

    def with_head(
        self, question: TokenQuestion, fields: Iterable[tuple[bytes, bytes]]
    ) -> TokenQuestion:
        """Return a question with the head of its answer. Raises BadAnswer if that has a token.

        `answered` searches the head for the tokens of the body too.
        """
        head = b"\n".join(one for each in fields for one in each)
        return replace(question, head=self._checked(head))

    def _token(self, name: str, value: bytes) -> LoginToken:
        for one in self.tokens:
            if one.token == value:
                return one
        try:
            return LoginToken(name, value, stand_in_like(value, self._draw, keeps_claims=True))
        except UnfitSecret as unfit:
            raise BadAnswer(f"has a token that {unfit.reason}") from None

    def _keep(self, question: TokenQuestion, tokens: list[LoginToken]) -> None:
        gone = {*tokens}
        if any(one.name == REFRESH for one in tokens):
            gone.update(one for one in question.used if one.name == REFRESH)
        others = [one for one in self.tokens if one not in gone]
        self.tokens = tuple([*others, *dict.fromkeys(tokens)][-MAX_TOKENS:])

    def _checked(self, data: bytes, more: Iterable[LoginToken] = ()) -> bytes:
        """Return `data` if it has none of the tokens, nor one of `more`. Raises BadAnswer."""
        if self._search is None or self._search[0] is not self.tokens:
            self._search = (self.tokens, StandInSearch([one.token for one in self.tokens]))
        found = self._search[1].find(data)
        new = [one.token for one in more if one not in self.tokens]
        if found is not None or (new and StandInSearch(new).find(data) is not None):
            raise BadAnswer("has a token within another text")
        return data
