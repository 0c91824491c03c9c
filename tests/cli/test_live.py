"""The end of a run in a few lines: what was denied or failed, by host, and what would allow it."""

from __future__ import annotations

import msgspec
import pytest

from nono_trio.cli.live import MAX_TARGETS, WITHOUT_TOKEN, end_lines, say, say_hint
from nono_trio.core.log.events import Network, NetworkEvent
from nono_trio.core.policy.attempts import MAX_HOSTS, AttemptTally
from nono_trio.core.policy.reasons import with_allow_entry


def event(target, port=443, decision="deny", *, reason=None, method="CONNECT"):
    return NetworkEvent(
        timestamp_unix_ms=1, mode="connect", decision=decision, target=target, port=port,
        method=method, reason=reason,
    )  # fmt: skip


def looked_up(target):
    return event(target, 53, method="DNS", reason="the name is not allowed on any port")


def missing(target, port=443):
    return event(target, port, reason=f"{target}:{port} is not on the allowlist")


def summary(*events):
    tally = AttemptTally()
    tally.add_all(Network(event=one) for one in events)
    return end_lines(tally, "5e55")


def test_nothing_denied_is_nothing_to_say():
    assert summary(event("a.test", decision="allow")) == []


def test_a_host_that_was_looked_up_and_tried_at_two_ports_is_named_once():
    assert summary(
        looked_up("a.test"), missing("a.test", 443), missing("a.test", 80), looked_up("a.test"),
        event("b.test", decision="allow"),
    ) == [
        "2 denied, 0 failed, 1 allowed",
        "denied a.test:80,443 (2x): a.test:443 is not on the allowlist",
        "to allow: --allow-domain a.test:443 --allow-domain a.test:80",
        "details: nono-trio audit show 5e55",
    ]  # fmt: skip


def test_no_line_names_a_log_that_is_removed():
    tally = AttemptTally()
    many = [event(f"h{number}.test") for number in range(30)]
    tally.add_all(Network(event=one) for one in many)
    tally.observed["o.test"] = None
    assert sum("nono-trio audit" in line for line in end_lines(tally, "5e55")) == 3
    assert not any("nono-trio audit" in line for line in end_lines(tally, None))


def test_a_name_that_was_only_looked_up_says_so():
    assert summary(looked_up("x.tunnel.test"), looked_up("x.tunnel.test"))[:-1] == [
        "1 denied, 0 failed, 0 allowed",
        "denied x.tunnel.test, only looked up (1x): the name is not allowed on any port",
    ]


def test_what_would_have_allowed_it_is_in_the_form_that_does():
    lines = summary(
        event("a.test", reason=with_allow_entry("it hides its name", "tls://a.test:443")),
        event("2001:db8::1", reason=with_allow_entry("no TLS", "tcp://[2001:db8::1]:443")),
        event("169.254.169.254", 80, reason="169.254.169.254 is a cloud metadata address"),
        event("", None, reason="malformed"),
    )
    assert lines[:5] == [
        "4 denied, 0 failed, 0 allowed",
        "denied a.test:443 (1x): it hides its name",
        "denied [2001:db8::1]:443 (1x): no TLS",
        "denied 169.254.169.254:80 (1x): 169.254.169.254 is a cloud metadata address",
        "denied (malformed request) (1x): malformed",
    ]
    assert lines[5] == (
        "to allow: --allow-domain tls://a.test:443 --allow-domain tcp://[2001:db8::1]:443"
    )


def test_a_flood_is_counted_and_not_kept():
    many = [missing(f"h{number}.test") for number in range(MAX_HOSTS + 10)]
    scan = [missing("h0.test", port) for port in range(1, 1000) if port != 443]
    lines = summary(*many, *scan, *[missing("h5.test")] * 3)
    assert lines[0] == f"{len(many) + len(scan) + 3:,} denied, 0 failed, 0 allowed"
    assert lines[1].startswith("denied h0.test:1,2,3,4,5,6,7,8,... (999x): ")
    assert lines[2].startswith("denied h5.test:443 (4x): ")
    assert lines[6] == f"denied {MAX_HOSTS - MAX_TARGETS} hosts more"


def test_what_is_about_no_host_is_not_shown():
    own = event("nono-trio:dns", 53, method="DNS", reason="9 more queries for denied names")
    assert summary(looked_up("a.test"), own)[0] == "1 denied, 0 failed, 0 allowed"
    assert summary(own) == []


def test_a_program_that_sends_no_password_is_told_of():
    refused = event("a.test", reason="proxy authentication is required")
    refused = msgspec.structs.replace(refused, denial_category="authentication_failed")
    told = WITHOUT_TOKEN.format("a.test:443 and maybe others")
    assert summary(refused) == [told, "details: nono-trio audit show 5e55"]
    both = summary(refused, missing("b.test"))
    assert [both[0], both[2]] == ["1 denied, 0 failed, 0 allowed", told]


def test_a_request_without_a_host_is_not_named_among_them():
    refused = [
        msgspec.structs.replace(event(target, port), denial_category="authentication_failed")
        for target, port in (("a.test", 443), ("", None))
    ]
    assert WITHOUT_TOKEN.format("a.test:443 and maybe others") in summary(*refused)
    assert WITHOUT_TOKEN.format("some hosts") in summary(refused[1])


def test_a_client_that_sends_the_password_when_asked_gets_no_note():
    """The first request of each connection of git is without it; one a second has a record."""
    asked, counted, answered = (
        msgspec.structs.replace(event(target, port), **changed)
        for target, port, changed in (
            ("a.test", 443, {"denial_category": "authentication_failed"}),
            ("", None, {"denial_category": "authentication_failed"}),
            ("a.test", 443, {"decision": "allow", "auth_outcome": "succeeded"}),
        )
    )
    assert summary(asked, answered, asked, answered, counted) == []
    assert WITHOUT_TOKEN.format("a.test:443 and maybe others") in summary(answered, counted, asked)


def test_what_failed_is_no_denial_and_is_told_with_its_reason():
    reasons = ["the upstream proxy p.test:3128 asks for a user and password (407)"] * 2
    reasons += [f"can't connect to a.test:{port}: refused" for port in range(5)]
    lines = summary(
        *(
            msgspec.structs.replace(
                event("a.test", reason=reason), denial_category="external_proxy_rejected"
            )
            for reason in reasons
        )
    )
    assert lines == [
        "0 denied, 7 failed, 0 allowed",
        f"failed a.test:443 (7x): {reasons[0]}",
        "details: nono-trio audit show 5e55",
    ]


def test_a_scan_is_named_by_its_first_ports():
    text = summary(*[missing("a.test", port) for port in range(1, 100)])[1]
    assert text.startswith("denied a.test:1,2,3,4,5,6,7,8,... (99x): ")


@pytest.mark.parametrize("target", ["\x1b[31mred", "a\nb", "\u202eevil"])
def test_nothing_of_a_target_reaches_the_terminal_raw(target):
    assert all(line.isprintable() for line in summary(missing(target), looked_up(target)))


def test_a_client_that_answers_when_it_is_asked_used_the_password():
    """wget, for one, sends it only after a 407."""
    asked = msgspec.structs.replace(event("a.test"), denial_category="authentication_failed")
    answered = msgspec.structs.replace(
        event("a.test", decision="allow"), auth_mechanism="proxy_authorization",
        auth_outcome="succeeded",
    )  # fmt: skip
    assert summary(asked, answered) == []
    told = WITHOUT_TOKEN.format("a.test:443 and maybe others")
    assert told in summary(asked, answered, asked)


def test_lines_for_people_never_go_to_stdout(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr", None)  # as in `nono-trio ... 2>&-`
    say("one session")
    say_hint("`nono-trio audit list`")
    assert capsys.readouterr().out == ""
