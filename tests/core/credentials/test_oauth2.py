"""Settings of OAuth 2.0: what is refused, which paths a token URL covers, what is sent."""

from __future__ import annotations

from base64 import b64decode
from ipaddress import ip_address
from urllib.parse import parse_qs

import pytest

from nono_trio.core.credentials.oauth2 import parse_oauth2, token_request
from nono_trio.core.credentials.token_url import parse_token_url
from nono_trio.errors import UsageError

URL = "https://auth.example.com/oauth/token"
SETTINGS = {"token_url": URL, "client_id": "me", "client_secret": "env://CLIENT_SECRET"}


@pytest.mark.parametrize(
    "text",
    [
        "auth.example.com/oauth/token", "ftp://auth.example.com/t", "https://auth.example.com",
        "https://user@auth.example.com/t", "https://auth.example.com/t?x=1",
        "https://auth.example.com/t#x", "https://auth.example.com:0/t",
        "https://auth.example.com:65536/t", "https://auth.example.com/../..", "https:///t",
        "https://auth.example.com/a%2", "https://auth.example.com/a\x1b", "https://127.1/t",
        "http://192.0.2.1/t", "https://169.254.169.254/t", "https://[::ffff:169.254.169.254]/t",
        "http://8.8.8.8/t", "https://0.0.0.0/t",
    ],
)  # fmt: skip
def test_a_url_that_is_no_token_endpoint_is_refused(text):
    with pytest.raises(UsageError) as refused:
        parse_token_url("api", text)
    assert refused.value.hint
    assert "\x1b" not in refused.value.message


@pytest.mark.parametrize(
    ("text", "address", "expected"),
    [
        (URL, "192.0.2.1", True),
        (URL, "10.0.0.1", True),
        (URL, "169.254.169.254", False),
        (URL, "0.0.0.0", False),
        ("http://auth.internal/token", "10.0.0.1", True),
        ("http://auth.internal/token", "::1", True),
        ("http://auth.internal/token", "8.8.8.8", False),
        ("http://auth.internal/token", "fe80::1", False),
    ],
)
def test_tokens_in_clear_go_to_near_addresses_alone(text, address, expected):
    assert parse_token_url("api", text).may_dial(ip_address(address)) is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/oauth/token", True), ("/oauth/token?a=b", True), ("/OAuth/Token", True),
        ("/oauth/token/", True), ("/oauth//token", True), ("/oauth/token;x=1", True),
        ("/oauth;a/token.json", True), ("/oauth/token/more", True), ("/oauth/%74oken", True),
        ("/oauth%2ftoken", True), ("/oauth/tokens", False), ("/oauth", False), ("/", False),
        ("/v1/oauth/token", False), ("/oauth/device", False),
    ],
)  # fmt: skip
def test_every_path_that_a_server_may_read_as_the_url_is_covered(target, expected):
    assert parse_token_url("api", URL).matches(target) is expected


def test_a_request_with_basic_encodes_id_and_secret_first():
    settings = parse_oauth2("api", **SETTINGS, scopes=["a", "b:c"], audience="https://api.example")
    request = token_request(settings, b"p:ss w\xf6rd")
    fields = dict(request.fields)
    assert b64decode(fields["Authorization"].removeprefix("Basic ")) == b"me:p%3Ass+w%F6rd"
    assert fields["Host"] == "auth.example.com"
    assert parse_qs(request.body.decode()) == {
        "grant_type": ["client_credentials"], "scope": ["a b:c"], "audience": ["https://api.example"],
    }  # fmt: skip
    assert repr(request) == "TokenRequest(...)"


def test_a_request_with_post_has_them_in_the_form():
    request = token_request(parse_oauth2("api", **SETTINGS, auth="post"), b"p&ss")
    assert "Authorization" not in dict(request.fields)
    form = parse_qs(request.body.decode())
    assert (form["client_id"], form["client_secret"]) == (["me"], ["p&ss"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"auth": "bearer"}, {"client_id": ""},
        {"client_id": "a\r\nb"}, {"audience": "\u00e9"}, {"scopes": ["a b"]}, {"scopes": [""]},
        {"scopes": ["a" * 5000]}, {"token_url": "http://8.8.8.8/t"},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError) as refused:
        parse_oauth2("api", **SETTINGS | wrong)
    assert refused.value.message.startswith("credential api: ")
