"""Entries of the flags: what can't be meant is a UsageError that names the flag and the entry."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nono_trio.core.policy.network_policy import Policy
from nono_trio.core.policy.rule import Inspection, is_metadata_name, parse_allow, with_parents
from nono_trio.errors import UsageError


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*:443",
        "*.",
        "*.*",
        "**.allowed.test",
        "*allowed.test",
        "a.*.test",
        "*.1.2.3.4",
        "*.[::1]",
        "*.localhost",
        "*.metadata.google.internal",
        ":443",
        "allowed.test:",
        "allowed.test:0",
        "allowed.test:00443",
        "allowed.test:65536",
        "allowed.test:+443",
        "allowed.test:4_4_3",
        "allowed.test:\N{ARABIC-INDIC DIGIT FOUR}43",
        "allowed.test:443:443",
        "allowed.test:https",
        "[::1",
        "[::1]443",
        "[allowed.test]:443",
        "fe80::1%eth0",
        "127.1",
        "2130706433",
        "0x7f000001:80",
        " allowed.test",
        "allowed.test\n",
        "user@allowed.test",
        "10.0.0.0/8",
        "https://allowed.test",
        "https://allowed.test/",
        "https://allowed.test/path/**x",
        "github",
        "llm_apis",
        "allowed..test",
        "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
        "\udcff.test",
    ],
)
def test_an_entry_that_can_not_be_meant_is_named_with_its_flag(entry):
    with pytest.raises(UsageError) as refused:
        Policy.build([entry])
    assert refused.value.message.startswith("--allow-domain ")
    assert ascii(entry) in refused.value.message
    assert refused.value.message.isprintable()
    assert not refused.value.message.endswith(".")
    assert refused.value.hint


def test_denying_every_host_points_to_the_flag_that_does_it():
    with pytest.raises(UsageError, match="--deny-domain") as refused:
        Policy.build(deny=["*"])
    assert "--block-net" in str(refused.value.hint)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "a.test",
        "a.test:443",
        "a.test:443:",
        "a.test:443:b.test",
        "a.test:443:127.1",
        "a.test:443:127.0.0.1,",
        "a.test:443:169.254.169.254",
        "a.test:443:0.0.0.0",
        "a.test:443:[::ffff:169.254.169.254]",
        "a.test:0:127.0.0.1",
        "a.test:*:127.0.0.1",
        "*.test:443:127.0.0.1",
        "127.0.0.1:443:127.0.0.1",
        "[::1]:443:127.0.0.1",
        ":443:127.0.0.1",
    ],
)
def test_a_pin_that_can_not_be_meant_is_named_with_its_flag(entry):
    with pytest.raises(UsageError, match="--resolve") as refused:
        Policy.build(resolve=[entry])
    assert refused.value.hint


entries = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="a1.:*[]-xn,/@% \u3002\xad", max_size=30),
    st.builds("{}:{}".format, st.ip_addresses(), st.integers(-1, 70000)),
)


@settings(deadline=None)  # the first example loads idna
@given(entries, entries, entries)
def test_any_text_is_an_entry_or_a_usage_error(allow, deny, pin):
    for arguments in ({"allow": [allow]}, {"deny": [deny]}, {"resolve": [pin]}):
        try:
            Policy.build(**arguments)
        except UsageError as refused:
            message = refused.message
        else:
            continue
        assert message.isascii()
        assert message.isprintable()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metadata.goog", True),
        ("a.b.metadata.goog", True),
        ("xmetadata.goog", False),
        ("metadata.goog.test", False),
        ("goog", False),
    ],
)
def test_metadata_names_and_all_below_them(name, expected):
    assert is_metadata_name(name) is expected


def test_with_parents():
    assert list(with_parents("a.b.c")) == ["a.b.c", "b.c", "c"]
    assert list(with_parents("a")) == ["a"]


@pytest.mark.parametrize(
    ("entry", "port", "inspection", "spoken"),
    [
        ("a.test", 80, Inspection.NAME, "http"),
        ("a.test", 443, Inspection.NAME, "tls"),
        ("a.test:8443", 8443, Inspection.NONE, "anything"),
        ("tls://a.test:8443", 8443, Inspection.TLS, "tls"),
        ("tls://a.test", 443, Inspection.TLS, "tls"),
        ("tcp://a.test:80", 80, Inspection.NONE, "anything"),
        ("tcp://a.test:443", 443, Inspection.NONE, "anything"),
        ("a.test:*", 80, Inspection.NAME, "http"),
        ("a.test:*", 22, Inspection.NONE, "anything"),
    ],
)
def test_what_an_entry_wants_to_see_on_a_port(entry, port, inspection, spoken):
    rule = parse_allow(entry)
    assert rule.inspection(port) is inspection
    assert rule.inspection(port).spoken(port) == spoken
    assert Inspection.NAME.spoken(port) == {80: "http", 443: "tls"}.get(port, "anything")
