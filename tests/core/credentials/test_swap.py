"""The stand-in becomes the secret in its places; the rest of the request stays."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import replace
from urllib.parse import parse_qsl, quote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.credentials.credential import DEFAULT_PLACES, Place
from nono_trio.core.credentials.swap import (
    SecretUnfit,
    Spot,
    Swap,
    Swapped,
    stand_ins_in_body,
    stand_ins_in_head,
    swap_body,
    swap_head,
)

STAND_IN = b"ghp_eRXPkLFYgUs8P2dtPcLD4zdepRcbkA3V/+=."
SECRET = b"s3cr&t=+/ %\"\\:'<>;x"
ALL = frozenset(Place)
JSON = b"application/json; charset=utf-8"
FORM = b"application/x-www-form-urlencoded"


def swap(places=ALL, secret: bytes = SECRET) -> list[Swap]:
    return [
        Swap("other", b"npm_0123456789abcdefghijklmnopqrstuvwxyz", b"other-secret", ALL),
        Swap("mine", STAND_IN, secret, frozenset(places)),
    ]


def done(*places: Place) -> tuple[tuple[str, Place], ...]:
    return tuple(("mine", one) for one in places)


def seen(spots: tuple[Spot, ...]) -> tuple[tuple[str, Place], ...]:
    return tuple((one.name, one.place) for one in spots)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"authorization", b"Bearer %s", b"Bearer %s"),
        (b"authorization", b"token %s", b"token %s"),
        (b"x-api-key", b"%s", b"%s"),
        (b"authorization", b'Token token="%s", a=b', b'Token token="%s", a=b'),
        (b"x-api-key", b"key.%s,%s", b"key.%s,%s"),
        (b"authorization", b"Bearer %s x%s", b"Bearer %s xSTAND-IN"),
    ],
)
def test_a_header_value_is_swapped_wherever_it_has_the_stand_in(name, value, expected):
    fields = [(b"accept", b"*/*"), (name, value.replace(b"%s", STAND_IN)), (b"x", b"y")]
    result = swap_head(b"/", fields, swap({Place.HEADER}))
    assert result.fields == [
        fields[0],
        (name, expected.replace(b"%s", SECRET).replace(b"STAND-IN", STAND_IN)),
        fields[2],
    ]
    assert result.target == b"/"
    assert (result.done, result.left) == ((Spot("mine", Place.HEADER, name.decode()),), ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # A server may send each of these back, in a header of its own or in an error text.
        (b"origin", b"https://%s"),
        (b"x-request-id", b"%s"),
        (b"idempotency-key", b"%s"),
        (b"access-control-request-headers", b"%s"),
        (b"x-amz-meta-a", b"%s"),
        (b"user-agent", b"%s"),
        (b"cookie", b"a=%s"),
        (b"host", b"%s.example.com"),
        (b"authorization", b"Bearer x%s"),
        (b"authorization", b"Bearer %sx"),
    ],
)
def test_a_header_that_may_come_back_keeps_the_stand_in_and_is_named(name, value):
    fields = [(name, value.replace(b"%s", STAND_IN))]
    result = swap_head(b"/", fields, swap())
    assert result.fields is fields
    assert (result.done, result.left) == ((), (Spot("mine", Place.HEADER, name.decode()),))


def test_a_credential_may_name_headers_and_parameters_of_its_own():
    own = replace(
        swap()[1], headers=frozenset({"cookie"}), parameters=frozenset({"sig"}), secret=b"new"
    )
    fields = [(b"cookie", b"a=b; s=" + STAND_IN), (b"authorization", b"Bearer " + STAND_IN)]
    result = swap_head(b"/?Sig=%s&key=%s&sig=x%s" % ((STAND_IN,) * 3), fields, [own])
    assert result.fields == [(b"cookie", b"a=b; s=new"), fields[1]]
    assert result.target == b"/?Sig=new&key=%s&sig=x%s" % (STAND_IN, STAND_IN)
    assert [one.part for one in result.left] == ["key", "sig", "authorization"]


@pytest.mark.parametrize("scheme", [b"Basic ", b"basic ", b"BASIC  "])
def test_basic_is_swapped_on_either_side_of_the_colon(scheme):
    for sides in ((b"x-access-token", STAND_IN), (STAND_IN, b""), (b"", STAND_IN)):
        secret = SECRET.replace(b":", b"")
        fields = [(b"authorization", scheme + b64encode(b":".join(sides)))]
        result = swap_head(b"/", fields, swap({Place.BASIC}, secret))
        encoded = result.fields[0][1].removeprefix(scheme)
        expected = b":".join(secret if one == STAND_IN else one for one in sides)
        assert b64decode(encoded, validate=True) == expected
        assert seen(result.done) == done(Place.BASIC)


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (b"/v1?key=%s", Place.QUERY),
        (b"/v1?a=%%20&key=%s&%%zz=1&b", Place.QUERY),
        (b"/bot%s/send?x=%%2F", Place.PATH),
        (b"/%s", Place.PATH),
    ],
)
@pytest.mark.parametrize(
    "spelled",
    [
        STAND_IN,
        quote(STAND_IN, safe="").encode(),
        quote(STAND_IN, safe="").lower().encode().replace(STAND_IN[:-4].lower(), STAND_IN[:-4]),
        b"".join(b"%%%02x" % one for one in STAND_IN),
    ],
)
def test_a_target_is_swapped_with_percent_escapes(target, place, spelled):
    given_target = target % spelled
    result = swap_head(given_target, [], swap({place}))
    before, after = (target % b"\0").split(b"\0")
    assert result.target.startswith(before)
    assert result.target.endswith(after)
    new = result.target[len(before) : len(result.target) - len(after)]
    assert unquote_to_bytes(new) == SECRET
    assert not set(new) & set(b'/ "&=+?#\\<>' if place is Place.QUERY else b'/ "?#\\<>')
    assert seen(result.done) == done(place)


@pytest.mark.parametrize(
    "text",
    [
        '{"key": "%s", "a": [1.0, "x%s y"], "\\u0065": "\\u00e9\\n\\/"}',
        '"%s"',
        '[ "\\"%s\\\\" , {"k" :"%s"}]',
    ],
)
@pytest.mark.parametrize("escapes", [False, True])
def test_json_is_swapped_in_string_values(text, escapes):
    spelled = STAND_IN.decode()
    if escapes:
        spelled = "".join(f"\\u{ord(one):04X}" for one in spelled).replace("\\u002F", "\\/")
    data = text.replace("%s", spelled).encode()
    result = swap_body(JSON, data, swap({Place.BODY}))
    expected = json.dumps(json.loads(data)).replace(
        json.dumps(STAND_IN.decode())[1:-1], json.dumps(SECRET.decode())[1:-1]
    )
    assert json.loads(result.data) == json.loads(expected)
    kept = text.split("%s")
    assert result.data.startswith(kept[0].encode())
    assert result.data.endswith(kept[-1].encode())
    assert seen(result.done) == done(Place.BODY)


def test_a_form_is_swapped_by_value():
    data = b"a=%20+x&token=" + quote(STAND_IN, safe="").encode() + b"&b=" + STAND_IN[:5]
    result = swap_body(FORM, data, swap({Place.BODY}))
    pairs = dict(parse_qsl(result.data.decode()))
    assert pairs == {"a": "  x", "token": SECRET.decode(), "b": STAND_IN[:5].decode()}
    assert result.data.startswith(b"a=%20+x&token=")


def test_a_name_of_a_form_stays_beside_a_value_that_is_swapped():
    spelled = quote(STAND_IN, safe="").encode()
    result = swap_body(FORM, b"%s=1&b=%s" % (spelled, spelled), swap())
    assert result.data == b"%s=1&b=%s" % (spelled, quote(SECRET, safe="").encode())


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        (None, STAND_IN),
        (b"text/plain", STAND_IN),
        (b"multipart/form-data; boundary=x", STAND_IN),
        (b"application/jsonx", b'"%s"' % STAND_IN),
        (JSON, b'{"a": "%s"' % STAND_IN),
        (JSON, b'{"%s": 1}' % STAND_IN),
        (JSON, b'"\xff%s"' % STAND_IN),
        (FORM, b"a=1&%s=2" % STAND_IN),
        (FORM, STAND_IN),
    ],
)
def test_another_body_keeps_the_stand_in_and_says_so(content_type, data):
    result = swap_body(content_type, data, swap())
    assert result.data is data
    assert (result.done, seen(result.left)) == ((), done(Place.BODY))


def test_places_that_the_credential_does_not_have_keep_the_stand_in():
    basic = b"Basic " + b64encode(b"x:" + STAND_IN)
    fields = [(b"x-api-key", STAND_IN), (b"authorization", basic)]
    target = b"/%s?key=%s" % (STAND_IN, STAND_IN)
    result = swap_head(target, fields, swap(()))
    assert (result.target, result.fields, result.done) == (target, fields, ())
    assert {*seen(result.left)} == {*done(Place.HEADER, Place.BASIC, Place.PATH, Place.QUERY)}
    body = swap_body(JSON, b'"%s"' % STAND_IN, swap(DEFAULT_PLACES, b"\xff"))
    assert (body.data, body.done, seen(body.left)) == (b'"%s"' % STAND_IN, (), done(Place.BODY))


def test_fields_that_route_or_frame_are_never_changed():
    fields = [(b"host", STAND_IN + b".example.com"), (b"connection", STAND_IN)]
    result = swap_head(b"http://" + STAND_IN + b".example.com/", fields, swap())
    assert (result.target, result.fields) == (b"http://" + STAND_IN + b".example.com/", fields)
    assert {*seen(result.left)} == {*done(Place.HEADER, Place.PATH)}


NO_HEADER_VALUES = (b"a\r\nX: y", b"a\nb", b"a\0b", b"a\x7fb", b" a", b"a ", b"a\tb", b"")


@pytest.mark.parametrize("secret", NO_HEADER_VALUES)
def test_a_secret_that_is_no_header_value_is_refused_without_showing_it(secret):
    with pytest.raises(SecretUnfit) as caught:
        swap_head(b"/", [(b"x-api-key", STAND_IN)], swap(secret=secret))
    assert caught.value.name == "mine"
    assert str(caught.value).startswith("the secret of credential mine has a line break")


def test_a_secret_that_its_place_can_not_have_is_refused():
    for sides, secret in (((STAND_IN, b"x"), b"a:b"), ((b"x", STAND_IN), b"a\nb")):
        fields = [(b"authorization", b"Basic " + b64encode(b":".join(sides)))]
        with pytest.raises(SecretUnfit):
            swap_head(b"/", fields, swap(secret=secret))
    with pytest.raises(SecretUnfit, match="UTF-8"):
        swap_body(JSON, b'"%s"' % STAND_IN, swap(secret=b"\xff\xfe"))


def test_line_breaks_of_a_secret_are_escaped_where_there_are_escapes():
    secret = b"a\r\nX: y\0"
    target = swap_head(b"/?key=" + STAND_IN, [], swap(secret=secret)).target
    assert target == b"/?key=a%0D%0AX%3A%20y%00"
    data = swap_body(JSON, b'"%s"' % STAND_IN, swap(secret=secret)).data
    assert json.loads(data) == secret.decode()


def test_it_is_known_before_the_secrets_are_there():
    fields = [(b"x-api-key", STAND_IN), (b"authorization", b"Basic " + b64encode(b"u:" + STAND_IN))]
    needed = stand_ins_in_head(b"/?a=" + STAND_IN, fields, swap(DEFAULT_PLACES, b"a\nb"))
    assert seen(needed.done) == done(Place.HEADER, Place.BASIC)
    assert needed.left == (Spot("mine", Place.QUERY, "a"),)
    body = stand_ins_in_body(JSON, b'"%s"' % STAND_IN, swap(secret=b"\xff"))
    assert seen(body.done) == done(Place.BODY)
    assert stand_ins_in_body(JSON, b'"\\u0041 x\\/y"', swap()) == Swapped()


TOKENS = st.lists(
    st.tuples(st.from_regex(rb"[a-z-]{1,9}", fullmatch=True), st.binary(max_size=40)), max_size=5
)


@given(st.binary(max_size=80), TOKENS)
def test_a_head_without_stand_in_stays_as_it_is(target, fields):
    result = swap_head(target, fields, swap())
    assert result.target == target
    assert result.fields is fields
    assert result.done == ()
    assert result.left == ()


@given(st.sampled_from([JSON, FORM, b"text/plain", None]), st.binary(max_size=200))
def test_a_body_without_stand_in_stays_as_it_is(content_type, data):
    assert swap_body(content_type, data, swap()).data is data


TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9)
    | st.just(STAND_IN.decode()),
    lambda some: st.lists(some, max_size=4)
    | st.dictionaries(st.text(max_size=5), some, max_size=4),
    max_leaves=12,
)  # fmt: skip


def with_secret(tree):
    if isinstance(tree, dict):
        return {name: with_secret(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [*map(with_secret, tree)]
    return SECRET.decode() if tree == STAND_IN.decode() else tree


@given(TREES, st.booleans(), st.sampled_from([None, 1]))
def test_json_parses_again_to_the_same_with_the_secret(tree, ascii_only, indent):
    data = json.dumps(tree, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    assert json.loads(swap_body(JSON, data, swap()).data) == with_secret(json.loads(data))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["key", "Token", "a b"]),
            st.text(max_size=8) | st.just(STAND_IN.decode()),
        )
    )
)
def test_a_query_parses_again_to_the_same_with_the_secret(pairs):
    target = "/p?" + "&".join(f"{quote(a, safe='')}={quote(b, safe='')}" for a, b in pairs)
    result = swap_head(target.encode(), [], swap({Place.QUERY})).target
    read = parse_qsl(result.decode().partition("?")[2], keep_blank_values=True)
    spelled = STAND_IN.decode()
    asked = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    assert read == [
        (a, SECRET.decode() if (a, b) in (("key", spelled), ("Token", spelled)) else b)
        for a, b in asked
    ]


def test_nothing_shows_a_secret_or_a_stand_in():
    shown = [*swap(), swap_head(b"/?a=" + STAND_IN, [(b"x-api-key", STAND_IN)], swap())]
    shown.append(swap_body(JSON, b'"%s"' % STAND_IN, swap()))
    assert not any(part in repr(shown) for part in ("s3cr", "ghp_e", "other-secret"))
