"""The names that mean the cage itself: its hosts file and NO_PROXY, from texts alone."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest

from nono_trio.core.policy.cage_names import (
    MAX_NAMES,
    MAX_NO_PROXY,
    names_of_the_cage,
    names_of_the_machine,
    no_proxy,
)

HOSTS = """\
127.0.0.1\tlocalhost
::1 localhost ip6-localhost ip6-loopback
10.9.8.7 db.corp  # not here
127.0.1.1 Dev.corp app.dev.corp # bad_-.name
::ffff:127.0.0.1 mapped.test
0.0.0.0 ads.test
64:ff9b::7f00:1 translated.test
127.0.0.1 a,b c\x1b[0m 1234
172.17.0.2 box.corp Box
nonsense
"""


def names(text: str, own: str = "box", *elsewhere: str) -> dict[str, list[str]]:
    found = names_of_the_cage(text, own, frozenset(elsewhere))
    return {name: [str(one) for one in at] for name, at in found.addresses.items()}


def test_lines_at_loopback_addresses_are_the_cages_and_others_are_left_out():
    found = names(HOSTS)
    assert found.keys() == {
        "localhost", "ip6-localhost", "ip6-loopback", "dev.corp", "app.dev.corp", "mapped.test",
        "box.corp", "box",
    }  # fmt: skip
    assert found["localhost"] == ["127.0.0.1", "::1"]
    assert found["dev.corp"] == ["127.0.1.1"]
    assert found["mapped.test"] == ["127.0.0.1"]


def test_the_machines_own_name_can_be_bound_wherever_the_host_has_it():
    assert names(HOSTS)["box"] == names(HOSTS)["box.corp"] == ["127.0.0.1"]
    assert names("127.0.1.1 box", "Box")["box"] == ["127.0.1.1"]
    assert names("", "Box")["box"] == ["127.0.0.1"]
    assert "1234" not in names("", "1234")  # not a name


def test_localhost_is_as_the_host_has_it_and_always_there():
    assert names("127.0.0.1 localhost")["localhost"] == ["127.0.0.1"]
    assert names("")["localhost"] == ["127.0.0.1", "::1"]
    assert names("")["ip6-localhost"] == ["::1"]


def test_what_a_rule_or_a_pin_names_is_the_hosts():
    found = names(HOSTS, "box", "dev.corp", "localhost", "box", "box.corp")
    assert "dev.corp" not in found
    assert found["app.dev.corp"] == ["127.0.1.1"]
    assert {"localhost", "box"} <= found.keys()  # programs bind them
    assert "box.corp" not in found


def test_the_text_is_a_hosts_file_that_says_the_same():
    own = names_of_the_cage(HOSTS, "box", frozenset())
    again = names_of_the_machine(own.text, frozenset())
    assert again.addresses == own.addresses
    assert all(ip_address(line.split("\t")[0]) for line in own.text.splitlines())


def test_a_block_list_has_an_end():
    text = "".join(f"127.0.0.1 ads{number}.example.net\n" for number in range(MAX_NAMES + 500))
    own = names_of_the_cage(text, "box", frozenset())
    assert own.left_out == 500
    value, missing = no_proxy(own, frozenset())
    assert len(value) < MAX_NO_PROXY + 200
    in_value = value.count("ads")
    assert missing == MAX_NAMES + 500 - in_value
    assert in_value > 100


@pytest.mark.parametrize("text", [HOSTS, ""])
def test_own_servers_by_every_name_are_reached_without_the_proxy(text):
    entries = no_proxy(names_of_the_cage(text, "box", frozenset()), frozenset())[0].split(",")
    assert len(entries) == len(set(entries))
    assert {"localhost", "127.0.0.1", "::1", "0.0.0.0", "127.0.0.2", "127.0.0.0/8", "ip6-localhost",
            "::ffff:127.0.0.1", "box"} <= set(entries)  # fmt: skip


def test_an_address_that_a_rule_names_is_in_no_range_either():
    own = names_of_the_cage("", "box", frozenset())
    entries = no_proxy(own, frozenset({"127.0.0.1"}))[0].split(",")
    assert not {"127.0.0.1", "127.0.0.0/8"} & set(entries)
    assert {"127.0.0.2", "localhost"} <= set(entries)
    entries = no_proxy(own, frozenset({"127.5.5.5"}))[0].split(",")
    assert "127.0.0.0/8" not in entries


def test_the_machines_file_adds_nothing_of_ours():
    own = names_of_the_machine("127.0.0.1 dev.corp", frozenset())
    assert own.addresses == {"dev.corp": (IPv4Address("127.0.0.1"),)}
