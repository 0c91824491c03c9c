"""What one end of a connection sends of a head, and what it never tells a log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import hpack
import pytest
from http2_peers import head

from nono_trio.core.http.http2_frames import HEADER, HEADERS
from nono_trio.proxy.http.http2.peer import SHORT_COOKIE, Http2Peer

if TYPE_CHECKING:
    from nono_trio.core.http.header_fields import Field
    from nono_trio.proxy.transport.transport import Transport


def sent_fields(fields: list[Field]) -> list[hpack.HeaderTuple]:
    """The fields of a request as a server decodes them."""
    peer = Http2Peer(cast("Transport", None), is_client=False)
    peer.take_unsent()
    peer.open_stream(fields, ended=True)
    sent = peer.take_unsent()
    assert sent[3] == HEADERS
    found = hpack.Decoder().decode(sent[HEADER:], raw=True)
    return list(cast("list[hpack.HeaderTuple]", found))


@pytest.mark.parametrize(
    "secret",
    [
        (b"Authorization", b"Bearer secret"),
        (b"proxy-authorization", b"Basic secret"),
        (b"cookie", b"a" * (SHORT_COOKIE - 1)),
    ],
)
def test_a_field_that_could_be_guessed_is_in_no_table(secret):
    *others, last = sent_fields([*head("/"), secret])
    assert last == (secret[0].lower(), secret[1])
    assert not last.indexable
    assert all(one.indexable for one in others)


def test_names_go_out_in_lower_case_and_nothing_about_the_connection():
    cookie = (b"cookie", b"a" * SHORT_COOKIE)
    fields = [*head("/"), (b"X-Amz-Date", b" now "), (b"Connection", b"close"), cookie]
    *_, date, last = sent_fields([*fields, (b"transfer-encoding", b"chunked")])
    assert (date, last) == ((b"x-amz-date", b"now"), cookie)
    assert last.indexable


def test_no_log_is_told_the_fields(caplog):
    caplog.set_level(logging.DEBUG, "hpack")
    sent_fields([*head("/"), (b"authorization", b"Bearer secret")])
    assert not [one for one in caplog.records if one.name.startswith("hpack")]
