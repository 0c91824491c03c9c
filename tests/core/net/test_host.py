"""parse_host and parse_rule_host: one spelling for one host, and no second reading."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nono_trio.core.net.host import MAX_NAME, BadHost, Host, parse_host, parse_rule_host

LONGEST_NAME = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("allowed.test", "allowed.test"),
        ("ALLOWED.Test", "allowed.test"),
        ("allowed.test.", "allowed.test"),
        ("localhost", "localhost"),
        ("_dmarc.allowed.test", "_dmarc.allowed.test"),
        ("r3---sn-4g5e.allowed.test", "r3---sn-4g5e.allowed.test"),
        ("1password.test", "1password.test"),
        ("4.4.4.4.in-addr.arpa", "4.4.4.4.in-addr.arpa"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
        ("a-xn--b.test", "a-xn--b.test"),
        (LONGEST_NAME, LONGEST_NAME),
        (LONGEST_NAME + ".", LONGEST_NAME),
    ],
)
def test_a_name_has_one_spelling(text, name):
    assert parse_host(text) == Host(name)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[0:0:0:0:0:0:0:1]", "::1"),
        ("[2001:DB8::A]", "2001:db8::a"),
        ("[::]", "::"),
    ],
)
def test_an_address_has_one_spelling(text, name):
    assert parse_host(text) == Host(name, ip_address(name))


def test_both_spellings_of_a_mapped_address_are_one_host():
    assert parse_host("[::ffff:169.254.169.254]") == parse_host("[::ffff:a9fe:a9fe]")


@pytest.mark.parametrize(
    "text",
    [
        "127.1",
        "127.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.01",
        "0251.0376.0251.0376",
        "425.510.425.510",
        "256.1.1.1",
        "1.2.3.4.5",
        "1.2.3.4.",
        "1.2.3.4..",
        "0",
        "0x",
        "0X7F000001",
        "allowed.test.0x1",
        "a.1",
    ],
)
def test_other_spellings_of_ipv4_are_refused(text):
    with pytest.raises(BadHost):
        parse_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[::1",
        "::1]",
        "[[::1]]",
        "[::1]allowed.test",
        "[::1]:443",
        "[fe80::1%eth0]",
        "[fe80::1%25eth0]",
        "fe80::1%1",
        "[v1.fe80::a]",
        "[127.0.0.1]",
        "[allowed.test]",
        "[:::1]",
        "[1::2::3]",
        "[1:2:3:4:5:6:7:8:9]",
        "[::ffff:127.0.0.01]",
        "[::ffff:127.1]",
        "[12345::]",
        "[ ::1]",
        ":",
        "allowed.test:443",
    ],
)
def test_broken_ipv6_is_refused(text):
    with pytest.raises(BadHost):
        parse_host(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".allowed.test",
        "allowed..test",
        "allowed.test..",
        "-allowed.test",
        "allowed-.test",
        "allowed.test-",
        "a" * 64 + ".test",
        LONGEST_NAME + "d",
        "*",
        "*.allowed.test",
        "allowed.test\x00.evil.test",
        "allowed.test\n",
        "\tallowed.test",
        "allowed.test ",
        "allowed%2etest",
        "user@allowed.test",
        "allowed.test/",
        "allowed.test\\.evil.test",
        "allowed.test#x",
        "allowed.test?x",
        'evil.test","decision":"allow',
        "xn--.test",
        "xn--allowed-.test",
        "xn--99999999999.test",
        "\N{CYRILLIC SMALL LETTER A}llowed.test",
        "allowed\N{IDEOGRAPHIC FULL STOP}test",
        "allo\N{SOFT HYPHEN}wed.test",
        "\N{KELVIN SIGN}.test",
        "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
        "\udcff.test",
    ],
)
def test_what_is_no_name_is_refused(text):
    with pytest.raises(BadHost) as refused:
        parse_host(text)
    assert refused.value.reason.isascii()
    assert refused.value.reason.isprintable()


def test_a_reason_never_quotes_the_host():
    with pytest.raises(BadHost) as refused:
        parse_host("s3cr3t@allowed.test")
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", "xn--bcher-kva.test"),
        ("B\N{LATIN CAPITAL LETTER U WITH DIAERESIS}CHER.test.", "xn--bcher-kva.test"),
        ("fa\N{LATIN SMALL LETTER SHARP S}.test", "xn--fa-hia.test"),
        (
            "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher\N{IDEOGRAPHIC FULL STOP}test",
            "xn--bcher-kva.test",
        ),
        ("allowed.test", "allowed.test"),
        ("[::1]", "::1"),
    ],
)
def test_rules_may_be_written_in_any_script(text, name):
    assert parse_rule_host(text).name == name


@pytest.mark.parametrize(
    "text",
    [
        "\N{FULLWIDTH DIGIT ONE}27.0.0.1",
        "\N{FULLWIDTH DIGIT ONE}27.1",
        "\N{FULLWIDTH ASTERISK}.test",
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher..test",
        "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher/x",
        "\N{SOFT HYPHEN}",
        "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * (MAX_NAME + 1),
        "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 64 + ".test",
        "\udcff.test",
    ],
)
def test_a_rule_that_maps_to_something_else_is_refused(text):
    with pytest.raises(BadHost):
        parse_rule_host(text)


hosts_and_junk = st.one_of(
    st.text(max_size=300),
    st.text(alphabet="0123456789abcdefx.:[]%-_*\u3002\xad\x00", max_size=40),
    st.ip_addresses().map(str),
    st.from_regex(r"(xn--)?[a-z0-9-]{0,12}(\.[a-z0-9-]{1,12}){0,3}\.?", fullmatch=True),
)


@given(hosts_and_junk)
@example("xn--0.test")
@example("[::ffff:1.2.3.4]")
def test_a_parsed_host_parses_to_itself(text):
    try:
        host = parse_host(text)
    except BadHost:
        return
    assert parse_host(host.name) == host
    assert parse_host(host.bracketed()) == host
    assert host.name.isascii()
    assert host.name == host.name.lower()
    assert len(host.name) <= MAX_NAME


@settings(deadline=None)  # the first example loads idna
@given(hosts_and_junk)
def test_a_rule_host_is_a_host_or_refused(text):
    try:
        host = parse_rule_host(text)
    except BadHost:
        return
    assert parse_host(host.name) == host


def test_idna_is_loaded_only_by_a_rule_that_needs_it():
    program = (
        "import sys; from nono_trio.core.policy.network_policy import Policy\n"
        "Policy.build(['a.test', '*.xn--bcher-kva.test']); assert 'idna' not in sys.modules\n"
        "Policy.build(['b\\xfccher.test']); assert 'idna' in sys.modules"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True, timeout=60)


@given(st.ip_addresses())
def test_every_address_is_read_as_itself(address):
    assert parse_host(str(address)).address == address
    assert isinstance(address, IPv4Address | IPv6Address)
