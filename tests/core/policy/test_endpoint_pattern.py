"""Patterns of paths, against their definition."""

from __future__ import annotations

from itertools import product

import pytest
from endpoint_paths import fits, matches
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.policy import endpoint_pattern
from nono_trio.core.policy.endpoint_path import MAX_SEGMENTS, CanonicalTarget, canonical_target
from nono_trio.core.policy.endpoint_pattern import parse_pattern
from nono_trio.errors import UsageError


def covers(pattern: str, path: str) -> bool:
    return parse_pattern(pattern).covers(canonical_target(path))


def may_cover(pattern: str, path: str) -> bool:
    return parse_pattern(pattern).may_cover(canonical_target(path))


def merged(path: list[str]) -> list[str]:
    return [*filter(None, path[:-1]), path[-1]]


def test_every_small_pattern_and_path_as_the_definition_says():
    """Both kinds of rule, on all paths of up to four segments and patterns of up to three items."""
    items = ["a", "b", "ab", "*", "**", "a*", "*b"]
    patterns = [list(one) for size in range(1, 4) for one in product(items, repeat=size)]
    words = ["a", "b", "ab", ""]
    paths = [
        list(one) for size in range(1, 5) for one in product(words, repeat=size)
        if size == 1 or one[0]
    ]  # fmt: skip
    assert len(patterns) * len(paths) > 100_000
    targets = [(path, CanonicalTarget("/" + "/".join(path))) for path in paths]
    for pattern in patterns:
        parsed = parse_pattern("/" + "/".join(pattern))
        for path, target in targets:
            expected = matches(pattern, path) and matches(pattern, merged(path))
            assert parsed.covers(target) is expected, (pattern, path)
            denied = matches(pattern, [*filter(None, path)])
            assert parsed.may_cover(target) is denied, (pattern, path)


def test_every_small_segment_as_the_definition_says():
    texts = ["".join(one) for size in range(5) for one in product("ab", repeat=size)]
    items = ["".join(one) for size in range(1, 6) for one in product("ab*", repeat=size)]
    for item in (one for one in items if "**" not in one):
        parsed = parse_pattern(f"/{item}")
        for text in texts:
            expected = fits(item, text)
            assert parsed.covers(CanonicalTarget(f"/{text}")) is expected, (item, text)


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**", "a*b"]), min_size=1, max_size=7),
    st.lists(st.sampled_from(["a", "b", "ab", "axb"]), min_size=1, max_size=9),
)
def test_larger_patterns_as_the_definition_says(pattern: list[str], path: list[str]):
    text = "/" + "/".join(path)
    assert covers("/" + "/".join(pattern), text) is matches(pattern, path)


def test_a_star_never_crosses_a_slash():
    assert covers("/repos/*/issues", "/repos/a/issues")
    assert not covers("/repos/*/issues", "/repos/a/b/issues")
    assert not covers("/repos/*/issues", "/repos//issues")
    assert not covers("/repos/a*", "/repos/a/b")
    assert covers("/repos/**/issues", "/repos/a/b/issues")
    assert covers("/repos/**", "/repos")


def test_an_allow_rule_holds_for_what_servers_make_of_a_path():
    assert not covers("/users/*/public", "/users/root%3F/public")
    assert not covers("/users/*/public", "/users/root%253F/public")
    assert not covers("/users/*/public", "/users/;x/public")
    assert not covers("/public/*.json", "/public/secret;.json")
    assert not covers("/public/*.json", "/public/secret%3B.json")
    assert not covers("/public/*.json", "/public/secret%23.json")
    assert not covers("/a/*/c/**", "/a//c/d")
    assert covers("/public/**", "/public/secret;x%3Fy//z")
    assert covers("/public/a;v=1", "/public/a;v=1")
    assert covers("/public/a%3Fb", "/public/a%3Fb")


@pytest.mark.parametrize(
    "path",
    [
        *("/admin", "/admin/", "/ADMIN/x", "/admin;x/y", "/admin%3Bx", "/admin%20/x", "/admin./x"),
        *("/%2561dmin", "/admin%2Fx", "/admin%252Fx", "/admin%3Fx", "/admin::$DATA", "/admin//x"),
        *("/%EF%BD%81dmin", "/adm%C4%B1n/x", "/%C4%81dmin", "/ad%C2%ADmin", "/%2Fhost/admin/x"),
        *("/%F0%9D%92%B6dmin/x", "/adm%C3%ADn", "/;/admin", "/%3B/admin", "/admin%EF%BC%9F"),
    ],
)
def test_a_deny_rule_holds_for_every_spelling(path: str):
    assert may_cover("/admin/**", path)
    assert not covers("/admin/x/**", path)


def test_a_deny_rule_leaves_other_paths_alone():
    for path in ("/", "/administrator", "/x/admin", "/admi", "/adminx/y", "/a;dmin", "/a%2Fadmin"):
        assert not may_cover("/admin/**", path), path
    assert may_cover("/@scope/**", "/%40scope%2Fname")
    assert may_cover("/caf%C3%A9", "/CAF%C3%89")
    assert may_cover("/café", "/caf%C3%A9/")
    assert may_cover("/a/b%3Fc", "/a%2Fb%3Fc")


def test_a_pattern_has_the_canonical_spelling_of_a_path():
    assert parse_pattern("/%7euser/%c3%a9/é").text == "/~user/%C3%A9/%C3%A9"
    assert parse_pattern("/@a%2fb").hides_slash


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/a/../b", "dot segment"),
        ("/a/%2e", "dot segment"),
        ("/../b", "climbs above"),
        ("/a**", "beside other"),
        ("/a/**b/c", "beside other"),
        ("/***", "beside other"),
        ("/a//b", "two slashes"),
        ("//a", "two slashes"),
        ("/a b", "space"),
        ("/a\\b", "backslash"),
        ("/a#b", "fragment"),
        ("/a%zz", "no escape"),
        ("/a?b", "question mark"),
        ("/a\udc80", "UTF-8"),
        ("/a%ff", "UTF-8"),
        ("/" + "a/" * MAX_SEGMENTS, "segments"),
        ("a", "begin with a slash"),
        ("", "begin with a slash"),
    ],
)
def test_a_pattern_that_can_not_be_meant_is_refused(text: str, reason: str):
    with pytest.raises(UsageError, match=reason) as refused:
        parse_pattern(text)
    assert refused.value.hint


def test_a_hostile_path_costs_no_more_than_segments_times_items(monkeypatch: pytest.MonkeyPatch):
    calls = 0
    real = endpoint_pattern.fits

    def counted(item, segment):
        nonlocal calls
        calls += 1
        return real(item, segment)

    monkeypatch.setattr(endpoint_pattern, "fits", counted)
    for pattern in ("/**/a/**/a/**/a/**/b", "/**/a/a/a/a/a/a/b", "/**/*/**/*/**/*/b", "/a/**"):
        calls = 0
        assert not covers(pattern, "/a" * (MAX_SEGMENTS - 1) + "/c") or pattern == "/a/**"
        assert calls <= MAX_SEGMENTS * len(parse_pattern(pattern).items), pattern
