"""Credentials: each setting is checked, and a request is bound by scheme, host and port."""

from __future__ import annotations

import pytest

from nono_trio.core.credentials.credential import (
    Credential,
    Place,
    Source,
    check_name,
    check_ttl,
    check_variables,
    check_wildcards,
    parse_bound_host,
    parse_places,
    parse_source,
)
from nono_trio.core.net.host import parse_host
from nono_trio.errors import UsageError

CANARY = "sk-ant-api03-q7Kf0xVb2Lr9TzWc"


@pytest.mark.parametrize("name", ["github", "a", "my-api_2", "a" * 32])
def test_a_name_is_lower_case_letters_digits_hyphens_and_underscores(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", "GitHub", "a" * 33, "a b", "a=b", "a\n", "ä"])
def test_another_name_is_refused_with_an_example(name):
    with pytest.raises(UsageError, match="expected a name") as caught:
        check_name(name)
    assert "--credential github" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("env://MY_KEY", "env", ("MY_KEY",)),
        ("file:///run/key", "file", ("/run/key",)),
        ("file://~/key", "file", ("~/key",)),
        ("keyring://a/b/alice", "keyring", ("a/b", "alice")),
        ("cmd://pass show 'a b'", "cmd", ("pass", "show", "a b")),
    ],
)
def test_each_form_of_a_source_is_read(text, kind, words):
    assert parse_source("x", text) == Source(kind, words)


@pytest.mark.parametrize(
    "text",
    [
        "", CANARY, "env://", "env://A-B", "env://A\n", "file://key", "file://../key", "file:///a\0",
        "keyring://alice", "keyring:///alice", "keyring://a/", "cmd://", "cmd:// ", "cmd://a 'b",
        "op://a/b", "ENV://A",
    ],
)  # fmt: skip
def test_another_source_is_refused_and_never_repeated(text):
    with pytest.raises(UsageError) as caught:
        parse_source("x", text)
    assert caught.value.hint
    assert CANARY not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize(
    ("text", "scheme", "name", "port", "wildcard", "origin"),
    [
        ("api.example.com", "https", "api.example.com", 443, False, "https://api.example.com"),
        ("API.example.com.", "https", "api.example.com", 443, False, "https://api.example.com"),
        ("https://a.example.com/", "https", "a.example.com", 443, False, "https://a.example.com"),
        ("a.example.com:8443", "https", "a.example.com", 8443, False, "https://a.example.com:8443"),
        ("*.example.com", "https", "example.com", 443, True, "https://*.example.com"),
        ("http://localhost", "http", "localhost", 80, False, "http://localhost"),
        ("http://127.0.0.1:8080", "http", "127.0.0.1", 8080, False, "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http", "::1", 8080, False, "http://[::1]:8080"),
        ("::1", "https", "::1", 443, False, "https://[::1]"),
        ("http://service", "http", "service", 80, False, "http://service"),
    ],
)
def test_a_bound_host_has_one_scheme_and_one_port(text, scheme, name, port, wildcard, origin):
    bound = parse_bound_host("x", text)
    assert (bound.scheme, bound.host.name, bound.port) == (scheme, name, port)
    assert (bound.wildcard, bound.origin) == (wildcard, origin)
    assert bound.rule.ports == (port,)


@pytest.mark.parametrize(
    "text",
    [
        "", "*", "*.com", "*.", "example.com:*", "example.com:0", "tls://example.com", "tcp://a.b:1",
        "http://http://example.com", "https://example.com/v1", "user@example.com", "a b",
        "169.254.169.254", "metadata.google.internal", "http://8.8.8.8",
        "http://[2606:4700::1]", "0.0.0.0",
    ],
)  # fmt: skip
def test_another_bound_host_is_refused_without_the_name_of_another_flag(text):
    with pytest.raises(UsageError, match=r"^credential x: ") as caught:
        parse_bound_host("x", text)
    assert "--allow-domain" not in f"{caught.value.message}{caught.value.hint}"
    assert caught.value.hint


def test_a_credential_is_bound_by_scheme_host_and_port():
    hosts = ("api.example.com", "*.git.example.com:8443", "http://127.0.0.1:8080")
    credential = Credential("x", "env://X", tuple(parse_bound_host("x", one) for one in hosts))

    def bound(scheme: str, host: str, port: int) -> bool:
        return credential.is_bound_to(scheme, parse_host(host), port)

    assert bound("https", "API.example.com", 443)
    assert bound("https", "a.b.git.example.com", 8443)
    assert bound("http", "127.0.0.1", 8080)
    assert not bound("http", "api.example.com", 443)
    assert not bound("https", "api.example.com", 8443)
    assert not bound("https", "a.api.example.com", 443)
    assert not bound("https", "git.example.com", 8443)
    assert not bound("https", "evilgit.example.com", 8443)
    assert not bound("https", "127.0.0.1", 8080)


def test_a_wildcard_below_which_anybody_registers_is_refused():
    credential = Credential("x", "env://X", (parse_bound_host("x", "*.github.io"),))
    check_wildcards(credential, lambda _suffix: False)
    with pytest.raises(UsageError, match=r"'\*\.github\.io': anybody may register"):
        check_wildcards(credential, lambda suffix: suffix == "github.io")


def test_places_are_read():
    assert parse_places("x", ["query", "body"]) == {Place.QUERY, Place.BODY}
    for wrong in ([], ["cookie"], ["header", "Header"]):
        with pytest.raises(UsageError, match="place"):
            parse_places("x", wrong)


@pytest.mark.parametrize("variable", ["", "A-B", "PATH", "HTTPS_PROXY", "NONO_X"])
def test_a_variable_that_is_ours_can_not_have_a_stand_in(variable):
    with pytest.raises(UsageError, match="credential x: "):
        check_variables("x", ["A", variable])


@pytest.mark.parametrize("seconds", [0, -1, 86401])
def test_a_time_is_bounded(seconds):
    check_ttl("x", None)
    check_ttl("x", 86400)
    with pytest.raises(UsageError, match="expected a ttl"):
        check_ttl("x", seconds)
