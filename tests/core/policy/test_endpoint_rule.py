"""Endpoint rules: from a person's text to a rule, by method, port and query."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.policy.endpoint_path import canonical_target
from nono_trio.core.policy.endpoint_query import (
    parse_query,
    query_covers,
    query_may_cover,
    query_text,
)
from nono_trio.core.policy.endpoint_rule import endpoint_text, parse_entry, parse_url_entry
from nono_trio.errors import UsageError


@pytest.mark.parametrize(
    ("text", "scheme", "host", "ports", "methods"),
    [
        ("GET https://a.test/x", "https", "a.test", (443,), {"GET"}),
        ("get,Head HTTPS://A.TEST./x", "https", "a.test", (443,), {"GET", "HEAD"}),
        ("* http://a.test/x", "http", "a.test", (80,), set()),
        ("* https://a.test:8443/x", "https", "a.test", (8443,), set()),
        ("* https://a.test:*/x", "https", "a.test", (0,), set()),
        ("M-SEARCH https://[2001:db8::1]/x", "https", "2001:db8::1", (443,), {"M-SEARCH"}),
        ("* https://[2001:db8::1]:8443/x", "https", "2001:db8::1", (8443,), set()),
        ("* https://192.0.2.1/x", "https", "192.0.2.1", (443,), set()),
        ("* https://intranet/x", "https", "intranet", (443,), set()),
        ("* https://bücher.test/x", "https", "xn--bcher-kva.test", (443,), set()),
    ],
)
def test_a_rule_is_read(text, scheme, host, ports, methods):
    rule = parse_entry(f"allow {text}")
    assert (rule.scheme, rule.host.name, rule.ports) == (scheme, host, ports)
    assert rule.methods == methods
    assert (rule.text, rule.entry) == (text, f"allow {text}")
    assert parse_entry(rule.entry) == rule


def test_a_wildcard_and_options_of_a_rule():
    rule = parse_entry("deny * https://*.a.test/@*?q=1 allow_encoded_slash")
    assert (rule.action, rule.wildcard, rule.host.name) == ("deny", True, "a.test")
    assert (rule.ports, rule.encoded_slash, len(rule.query)) == ((0,), True, 1)
    assert parse_entry("deny * https://a.test:8443/").ports == (8443,)
    assert parse_entry("audit read-only https://a.test/**").read_only
    assert parse_entry("allow * https://a.test/@a%2fb").encoded_slash
    assert parse_entry("allow https://a.test/x").methods == set()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("allow GET", "expected METHODS URL"),
        ("allow GET https://a.test", "with a host and a path"),
        ("allow GET a.test/x", "with a host and a path"),
        ("allow GET ftp://a.test/x", "with a host and a path"),
        ("allow GET wss://a.test/x", "with a host and a path"),
        ("allow GET https://u@a.test/x", "with a host and a path"),
        ("allow GET https://u:p@a.test/x", "with a host and a path"),
        ("allow GET https:///x", "host is empty"),
        ("allow GET https://a.test:/x", "expected a port"),
        ("allow GET https://a.test:0/x", "expected a port"),
        ("allow GET https://a.test:65536/x", "expected a port"),
        ("allow GET https://*/x", "expected a suffix"),
        ("allow GET https://a_b*.test/x", "host"),
        ("allow GET https://169.254.169.254/x", "stays closed"),
        ("allow GET https://metadata.google.internal/x", "stays closed"),
        ("allow GET https://*.localhost/x", "wildcard over loopback"),
        ("allow GET  https://a.test/x", "expected METHODS URL"),
        ("allow GET https://a.test/x y", "expected METHODS URL"),
        ("allow GET https://a.test/x\ty", "with a host and a path"),
        ("allow GET https://a.test/x\ny", "with a host and a path"),
        ("allow GET https://a.test/../x", "climbs above"),
        ("allow GET https://a.test/x#y", "with a host and a path"),
        ("allow GET https://a.test/x?", "NAME=VALUE"),
        ("allow GET https://a.test/x?a", "NAME=VALUE"),
        ("allow GET https://a.test/x?=1", "NAME=VALUE"),
        ("allow GET https://a.test/x?a=1;b=2", "NAME=VALUE"),
        ("allow GET https://a.test/x?a=%zz", "no escape"),
        ("allow GET, https://a.test/x", "expected a method"),
        ("allow ,GET https://a.test/x", "expected a method"),
        ("allow G(T https://a.test/x", "expected a method"),
        ("allow GÉT https://a.test/x", "expected a method"),
        ("allow GET,* https://a.test/x", "alone"),
        ("allow read-only,POST https://a.test/x", "alone"),
        ("deny read-only https://a.test/x", "can't deny"),
        ("deny https://a.test/x", "expected methods"),
        ("refuse GET https://a.test/x", "expected allow, deny or audit"),
        ("", "expected allow, deny or audit"),
    ],
)
def test_a_rule_that_can_not_be_meant_is_refused_with_its_flag(text, reason):
    with pytest.raises(UsageError, match=reason) as refused:
        parse_entry(text)
    assert refused.value.hint
    action = text.partition(" ")[0]
    if action in ("allow", "deny"):
        assert refused.value.message.startswith(f"--{action}-endpoint ")
    assert "--allow-domain" not in refused.value.message


def test_a_missing_method_has_a_hint_that_works():
    with pytest.raises(UsageError) as refused:
        parse_entry("deny https://a.test/x")
    flag, text = shlex.split(refused.value.hint or "")
    assert flag == "--deny-endpoint"
    assert parse_entry(f"deny {text}").host.name == "a.test"


def test_an_entry_of_allow_domain_names_that_flag():
    for text in ("https://a.test/../x", "https://a.test:0/x", "https://a.test/x#y"):
        with pytest.raises(UsageError, match=r"^--allow-domain 'https"):
            parse_url_entry(text)


@given(st.text(alphabet="GET,* :/a.test?=&%2F;#@[]\\\t\n-é", max_size=40))
def test_any_text_is_a_rule_or_a_usage_error(text):
    for whole in (
        text,
        f"allow {text}",
        f"deny GET https://{text}",
        f"allow https://a.test/{text}",
    ):
        try:
            rule = parse_entry(whole)
        except UsageError:
            continue
        assert parse_entry(rule.entry) == rule


def covers(entry: str, port: int, method: str, target: str) -> bool:
    return parse_entry(f"allow {entry}").covers("https", port, method, canonical_target(target))


def test_an_allow_rule_is_exact():
    assert covers("GET https://a.test/x", 443, "GET", "/x")
    assert not covers("GET https://a.test/x", 8443, "GET", "/x")
    assert not covers("GET https://a.test/x", 443, "get", "/x")
    assert not covers("GET https://a.test/x", 443, "HEAD", "/x")
    assert not covers("GET http://a.test:443/x", 443, "GET", "/x")
    assert covers("* https://a.test:*/x", 99, "WHATEVER", "/x")
    assert not covers("* https://a.test/*", 443, "GET", "/a%2Fb")
    assert covers("* https://a.test/* allow_encoded_slash", 443, "GET", "/a%2Fb")


@pytest.mark.parametrize(
    ("query", "allowed", "denied"),
    [
        ("s=a", True, True),
        ("x=1&s=a&y", True, True),
        ("%73=%61", True, True),
        ("s=a&s=a", True, True),
        ("s=a&s=b", False, True),
        ("s=b&s=a", False, True),
        ("S=a&s=b", False, True),
        ("s=a&S=b", False, True),
        ("s[]=b&s=a", False, True),
        ("+s=b&s=a", False, True),
        ("s=A", False, True),
        ("s=b", False, False),
        ("s", False, False),
        ("", False, False),
        (None, False, False),
        ("s=a;s=b", False, True),
        ("x=1;s=a", False, True),
        ("s=a&x=%zz", False, True),
        ("s=a&x=%ff", False, True),
        ("s=a%00", False, True),
        ("s=a%00b", False, True),
        ("s=+a", False, True),
        ("s=a%0A", False, True),
        ("s%00=a", True, True),
        ("?s=a", False, True),
        ("?s=b&s=a", False, True),
        ("s=a&s%00x=b", False, True),
        ("s=b&s%00[=a", False, True),
        ("s=aa", False, False),
    ],
)
def test_a_parameter_of_a_query(query, allowed, denied):
    parameters = parse_query("s=a")
    assert query_covers(parameters, query) is allowed
    assert query_may_cover(parameters, query) is denied


def test_a_star_in_a_query_is_any_text():
    parameters = parse_query("s=a*b&t=*")
    assert query_covers(parameters, "t=&s=ab")
    assert query_covers(parameters, "t=/&s=a%2Fb")
    assert not query_covers(parameters, "s=ab")
    assert not query_covers(parameters, "t=&s=a")
    assert query_covers((), "anything;%zz")


# U+FFFD stands for bytes that are no text: no rule that allows covers a query with it.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), min_size=1)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*\ufffd"))


@given(st.dictionaries(names, values, min_size=1))
def test_the_query_of_a_table_is_the_query_of_a_text(parameters):
    text = query_text(parameters)
    read = parse_query(text)
    assert len(read) == len(parameters)
    is_unambiguous = len({name for name, _ in read}) == len(read)
    assert query_covers(read, text) or not is_unambiguous
    entry = endpoint_text("a.test", ["GET"], "/x", parameters)
    assert parse_entry(f"allow {entry}").query == read
