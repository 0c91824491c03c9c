"""Each attempt of docs/attempts.md has the record that the table says, as root and as an ordinary
user."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from checkout import ROOT
from harness import PROBES, SYSTEM_PYTHON, allow, free_port
from judged_jobs import USERS, Judge, needs_view

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Origin

ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \|")
ROWS = [
    (attempt, [] if records == "none" else records.split(", "))
    for attempt, records in ROW.findall((ROOT / "docs" / "attempts.md").read_text())
]
MADE = (
    "home/.ssh/id_x", "home/.npmrc", "home/.config/gh/x", "home/.aws/x", "home/work/x",
    "home/tool", "home/notes", "home/other-notes", "other/file", "read-only/kept", "project/kept",
)  # fmt: skip


def test_the_table_is_long_enough_and_names_every_kind() -> None:
    assert len(ROWS) >= 60
    attempts = [attempt for attempt, _ in ROWS]
    assert len(set(attempts)) == len(attempts)
    verbs = Counter(attempt.split()[0] for attempt in attempts)
    assert min(verbs[verb] for verb in ("connect", "udp", "GET", "CONNECT", "read", "create")) >= 4
    addresses = [attempt for attempt in attempts if re.search(r"[0-9a-f]::", attempt)]
    assert len(addresses) >= 6


@pytest.mark.parametrize("user", USERS)
def test_every_attempt_has_its_record(open_place: Path, origin: Origin, user: str) -> None:
    judge = Judge(open_place, origin, user, needs_view(user, open_place))
    for name in MADE:
        (open_place / name).parent.mkdir(parents=True, exist_ok=True)
        (open_place / name).write_text("content\n")
    (open_place / "project").chmod(0o777)
    dead = free_port()

    def filled(text: str) -> str:
        known = {"PORT": origin.port, "DEAD": dead, "PLACE": open_place}
        return re.sub("|".join(known), lambda match: str(known[match[0]]), text)

    attempts = open_place / "project" / "attempts"
    attempts.write_text("".join(f"{filled(attempt)}\n" for attempt, _ in ROWS))
    done = judge.run(
        "--isolation", "namespace", "--allow", str(open_place / "project"),
        "--read", str(open_place / "read-only"), "--read", str(PROBES),
        *allow(origin, "mirror.example.com"), "--deny-domain", "listed.example.com",
        "--allow-domain", f"dead.example.com:{dead}",
        "--resolve", f"dead.example.com:{dead}:127.0.0.1",
        "--", SYSTEM_PYTHON, str(PROBES / "attempts.py"), str(attempts),
    )  # fmt: skip
    assert done.stdout == "done\n", done.stderr
    expected = Counter(filled(record) for _, records in ROWS for record in records)
    home = str(judge.sessions.home)
    expected = Counter({record.replace("~", home): n for record, n in expected.items()})
    assert records(judge, str(open_place)) == expected
    code, verdict = judge.sessions.verdict()
    assert (code, verdict["verdict"]) == (0, "verified")
    lines = (judge.sessions.only / "processes.ndjson").read_text().splitlines()
    programs = {json.loads(line)["exe"] for line in lines} - {None}
    assert all("/python3" in program for program in programs)
    assert programs


def records(judge: Judge, place: str) -> Counter[str]:
    """The records about the network, and those about files below `place`, as the table has them."""
    events = [record["event"] for record in judge.sessions.records()]
    network = [event["event"] for event in events if event["type"] == "network"]
    told = [network_text(one) for one in network if not one["target"].startswith("nono-trio:")]
    files = [event["entry"]["request"] for event in events if "entry" in event]
    words = {"Read": "read", "Write": "create"}
    return Counter(told) + Counter(
        f"{words[one['access']]} {one['path']}" for one in files if one["path"].startswith(place)
    )


def network_text(event: dict[str, Any]) -> str:
    failed = event.get("denial_category") == "upstream_connect_failed"
    target = event["target"]
    if event["port"] is not None:
        target = f"[{target}]" if ":" in target else target
        target = f"{target}:{event['port']}"
    words = ("failed" if failed else event["decision"], target, event["method"])
    return " ".join(word for word in words if word)
