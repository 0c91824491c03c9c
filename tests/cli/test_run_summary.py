"""The summary of a run for a CI job: hostile names, its forms, its file."""

from __future__ import annotations

import json
import os

import pytest
from sealed_session import network

from nono_trio.cli.json_output import json_text
from nono_trio.cli.live import verdict_line
from nono_trio.cli.run_summary import RunSummary, summary_output
from nono_trio.core.log.notices import gap_record
from nono_trio.core.policy.attempts import AttemptTally
from nono_trio.core.policy.judging import Judging
from nono_trio.errors import UsageError


def summary(*payloads, code=0, failure=None):
    tally = AttemptTally()
    tally.add_all(payloads)
    return RunSummary("5e55", "/nowhere", code, 0, tally, failure=failure)


HOSTILE = "<img src=x>|`a`](javascript:1)\n# \x1b[31m\u202e"


def test_the_page_has_denied_hosts_first_with_the_flag():
    missing = "evil.test:443 is not on the allowlist"
    run = summary(
        network(1, "allow", "example.com"), network(2, target="evil.test", reason=missing), code=3
    )
    page = [*run.markdown("verified")]
    assert page[0] == "### nono-trio: failed, exit code 3"
    assert "The command's own exit code was 0." in page
    rows = [line.replace("&#58;", ":") for line in page if line.startswith("| ")][1:]
    assert rows == [
        "| **denied** | evil.test:443 | 1 | evil.test:443 is not on the allowlist |"
        " --allow-domain evil.test:443 |",
        "| allowed | example.com:443 | 1 |  |  |",
    ]
    assert "1 denied, 0 failed, 1 allowed. Log: verified," in page


def test_no_name_gets_out_of_its_cell():
    page = [*summary(network(1, target=HOSTILE, reason=HOSTILE)).markdown("verified")]
    (row,) = [line for line in page if line.startswith("| **denied**")]
    assert row.isprintable()
    assert row.count("|") == 6
    assert not set("<>`[](") & set(row)


def test_a_run_that_fails_for_what_was_lost_says_so():
    """Before: the page said that what was lost had not been judged, and JSON said nothing."""
    tally = AttemptTally()
    tally.add(gap_record(7, "queue full", 1))
    judging = Judging("policy")
    failure = verdict_line(judging, judging.strays(tally))
    run = RunSummary("5e55", "/nowhere", 3, 0, tally, failure=failure)
    page = [line.replace("&#58;", ":") for line in run.markdown("verified")]
    assert "exit code 3: --fail-on-deny, and not all could be seen: 7 records were lost." in page
    assert "Lost: 7 records." in page
    assert run.answer("verified").failure == failure
    assert summary().answer("verified").failure is None


def test_no_name_gets_out_of_the_line_about_a_failure():
    page = [*summary(code=3, failure=HOSTILE).markdown("verified")]
    (line,) = [line for line in page if "img src" in line]
    assert line.isprintable()
    assert not set("<>`[](") & set(line)


def test_json_has_the_same_facts():
    answer = summary(network(1, target=HOSTILE), network(2, "allow", "a.test")).answer("verified")
    fields = json.loads(json_text(answer))
    assert (fields["schema"], fields["denied"], fields["failed"], fields["allowed"]) == (1, 1, 0, 1)
    assert [one["outcome"] for one in fields["hosts"]] == ["denied", "allowed"]
    assert fields["hosts"][0]["target"] == HOSTILE
    assert "reason" not in fields["hosts"][1]


def test_a_flood_has_a_bound():
    many = [network(number, target=f"h{number}.test") for number in range(500)]
    page = [*summary(*many).markdown("verified")]
    assert sum(line.startswith("| **denied**") for line in page) == 50
    assert "450 hosts more in the log." in page


def test_github_needs_its_variable_or_a_file(monkeypatch, tmp_path):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY is not set"):
        summary_output("github", None)
    summary_output("github", str(tmp_path / "page")).open(None, tmp_path / "state")
    assert (tmp_path / "page").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "missing"])
def test_only_a_file_of_ours_is_written(tmp_path, kind):
    path = tmp_path / "page"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path = tmp_path / "nothing" / "page"
    with pytest.raises(UsageError, match="summary"):
        summary_output("json", str(path)).open(None, tmp_path / "state")
    assert not (tmp_path / "elsewhere").exists()
