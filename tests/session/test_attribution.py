"""By which program: every network record of a caged run names who held its connection.

Real cages, in both isolations, as root and as an ordinary user, by the proxy and without one. Who
waits for an answer is always found; who does not is found or gone, and never somebody else.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import (
    PROBES,
    PYTHON_GRANTS,
    SYSTEM_PYTHON,
    Sessions,
    allow,
    as_user,
    guarded,
)

from nono_trio.core.log.processes import MAX_ARGUMENT
from nono_trio.core.policy.allow_entry import LOOK_UP

if TYPE_CHECKING:
    from harness import Origin

WITHOUT_PROXY = "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; exec "
WAYS = [
    pytest.param(["--isolation", "namespace"], id="proxy"),
    pytest.param(["--isolation", "namespace", "--transparent", "on"], id="transparent"),
    pytest.param(["--isolation", "landlock"], id="landlock", marks=guarded),
]
IN_NAMESPACE = WAYS[:2]


def probe(sessions: Sessions, way: list[str], *arguments: str) -> None:
    """Run the probe in a cage; without the proxy on the transparent network."""
    command = [sys.executable, str(PROBES / "attribution.py"), *arguments]
    if "--transparent" in way:
        command = ["/bin/sh", "-c", f'{WITHOUT_PROXY}"$@"', "sh", *command]
    done = sessions.run(
        *PYTHON_GRANTS, "--read", str(PROBES), *way, "--allow-domain", "other.example.com",
        "--", *command,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def lines(sessions: Sessions) -> list[dict[str, Any]]:
    text = (sessions.only / "processes.ndjson").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def holders(sessions: Sessions) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each network decision with its lines; none is without."""
    by_sequence: dict[int, list[dict[str, Any]]] = {}
    for line in lines(sessions):
        by_sequence.setdefault(line["sequence"], []).append(line)
    found = []
    for record in sessions.records():
        event = record["event"]
        if event["type"] == "network" and not event["event"]["target"].startswith("nono-trio:"):
            found.append((event["event"], by_sequence.pop(record["sequence"])))
    assert not by_sequence, "a line of no record"
    return found


def name_of(event: dict[str, Any]) -> str:
    return str(event["target"].removesuffix(".example"))


def assert_all_right(sessions: Sessions) -> list[str]:
    """Every record has one line, with its program; returns the names."""
    names = []
    for event, found in holders(sessions):
        (line,) = found
        assert (line["state"], line["argv"] and line["argv"][0]) == ("found", name_of(event))
        assert os.path.realpath(line["exe"]) == os.path.realpath(sys.executable)
        names.append(name_of(event))
    assert sessions.verdict()[1]["verdict"] == "verified"
    return names


@pytest.mark.parametrize("way", WAYS)
def test_many_at_once(sessions: Sessions, way: list[str]) -> None:
    count = 50
    probe(sessions, way, "many", str(count))
    assert {*assert_all_right(sessions)} == {f"many-{number}" for number in range(count)}
    digest = hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
    assert {line["exe_sha256"] for line in lines(sessions)} == {digest}
    assert {line["uid"] for line in lines(sessions)} == {os.geteuid()}
    assert len({(line["pid"], line["start_time"]) for line in lines(sessions)}) == count


@pytest.mark.parametrize("way", WAYS)
def test_who_does_not_wait_is_never_somebody_else(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, way, "leaving", "20")
    for event, found in holders(sessions):
        name = name_of(event)
        for line in found:
            if name.startswith("stays-") or event["method"] == LOOK_UP or "landlock" in way:
                assert line["state"] == "found"
            assert line["argv"] is None or line["argv"][0] == name
            assert (line["pid"] is None) == (line["state"] != "found")


@pytest.mark.parametrize("way", IN_NAMESPACE)
def test_a_program_that_executes_is_what_it_became(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, way, "execute")
    of_request = [found for event, found in holders(sessions) if event["method"] == "GET"]
    ((line,),) = of_request
    assert (line["state"], line["argv"][0]) == ("found", "after")


@pytest.mark.parametrize("way", IN_NAMESPACE)
def test_a_socket_that_was_handed_over(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, way, "hand_over")
    of_request = [found for event, found in holders(sessions) if event["method"] == "GET"]
    ((line,),) = of_request
    assert (line["state"], line["argv"][0]) == ("found", "taker")


@pytest.mark.parametrize("way", IN_NAMESPACE)
def test_all_who_hold_a_socket(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, way, "share")
    ((found),) = [found for event, found in holders(sessions) if event["method"] == "GET"]
    # The second one is looked for only as long as there is time (test_search.py has both cases).
    assert [line["state"] for line in found] in (["found"], ["found", "found"])
    assert len({line["pid"] for line in found}) == len(found)
    assert {line["argv"][0] for line in found} == {"shared"}


@pytest.mark.parametrize("way", IN_NAMESPACE)
def test_a_thread_with_descriptors_of_its_own(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, way, "own_table")
    assert {*assert_all_right(sessions)} == {"own-table"}


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]])
def test_what_a_child_calls_itself_is_redacted_and_bounded(
    sessions: Sessions, way: list[str]
) -> None:
    probe(sessions, way, "odd")
    secret, coloured, long = (found[0]["argv"] for _, found in holders(sessions))
    assert secret == ["--token", "[REDACTED]"]
    assert coloured[0] == "odd\x1b[31m\N{REPLACEMENT CHARACTER}"
    assert long[0].startswith("x" * MAX_ARGUMENT + "...")
    assert len(long[0]) < 2 * MAX_ARGUMENT
    shown = sessions.call("audit", "show", sessions.only.name).stdout
    assert "\x1b" not in shown


@pytest.mark.parametrize("way", WAYS)
def test_tools(sessions: Sessions, origin: Origin, way: list[str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    url = f"http://api.example.com:{origin.port}"
    script = f"curl -sS {url}/a | cat; curl -sS http://evil.example/ | head -c 20 | cat > /dev/null"
    if "--transparent" in way:
        script = f"{WITHOUT_PROXY.removesuffix('exec ')}{script}"
    done = sessions.run(*way, *allow(origin), "--", "/bin/sh", "-c", script)
    assert done.stdout == "ok\n"
    found = [found for _, found in holders(sessions)]
    assert all(Path(line["exe"]).name == "curl" for (line,) in found)
    assert len(found) >= 2


NODE = """
const proxy = new URL(process.env.HTTP_PROXY);
const request = require("http").get({
  host: proxy.hostname, port: proxy.port, path: "http://asked.example/",
  headers: {host: "asked.example", "proxy-authorization":
    "Basic " + Buffer.from(proxy.username + ":" + proxy.password).toString("base64")},
}, (answer) => { console.log(answer.statusCode); answer.resume(); });
request.on("error", (error) => { console.log(String(error)); });
"""


def test_node(sessions: Sessions) -> None:
    """A program of many threads that ends as soon as it has its answer."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    script = sessions.home / "ask.js"
    script.write_text(NODE)
    done = sessions.run(
        "--isolation", "namespace", "--read", str(sessions.home),
        "--", node, "--no-warnings", str(script),
    )  # fmt: skip
    assert done.stdout == "403\n", done.stderr
    ((_, (line,)),) = holders(sessions)
    assert (line["state"], line["exe"]) == ("found", os.path.realpath(node))
    assert line["argv"] == [node, str(script)]
    assert line["exe_sha256"] == hashlib.sha256(Path(node).resolve().read_bytes()).hexdigest()


def test_a_program_with_thousands_of_descriptors_is_found(sessions: Sessions) -> None:
    """Its connection is the last of them; others are answered meanwhile."""
    probe(sessions, ["--isolation", "namespace"], "crowded", "3000")
    names = assert_all_right(sessions)
    assert sorted(names) == ["crowded", *(f"many-{number}" for number in range(4))]


def test_an_ordinary_user(open_place: Path) -> None:
    prefix, variables = as_user("nobody", Path(__file__))
    sessions = Sessions(open_place / "state", open_place / "home")
    for directory in (sessions.state, sessions.home):
        directory.mkdir()
        directory.chmod(0o777)
    # The second request comes from a process that only root may look into, unless we held it.
    asking = (
        "import ctypes, sys, urllib.error, urllib.request\n"
        "for number in 1, 2:\n"
        "    try: urllib.request.urlopen(f'http://asked-{number}.example/')\n"
        "    except urllib.error.HTTPError as error: print(error.code, flush=True)\n"
        "    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [
            *prefix, "-m", "nono_trio", "run", "-s", "--isolation", "namespace",
            "--", SYSTEM_PYTHON, "-c", asking,
        ],
        env={**sessions.environment, **variables}, cwd="/", text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as run:  # fmt: skip
        assert run.stdout is not None
        told = [run.stdout.readline() for _ in range(2)]
        said = run.communicate(timeout=60)[1]
    assert told == ["403\n", "403\n"], said
    (_, (first,)), (_, (second,)) = holders(sessions)
    assert (first["state"], os.path.realpath(first["exe"])) == (
        "found", os.path.realpath(SYSTEM_PYTHON),
    )  # fmt: skip
    assert first["argv"] == [SYSTEM_PYTHON, "-c"]
    assert (second["state"], second["pid"]) in [("unknown", None), ("found", first["pid"])]


@pytest.mark.parametrize("way", [WAYS[0], WAYS[2]])
def test_off(sessions: Sessions, way: list[str]) -> None:
    probe(sessions, [*way, "--attribution", "off"], "many", "1")
    assert lines(sessions) == []
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_a_forged_line_is_tampering(sessions: Sessions) -> None:
    probe(sessions, ["--isolation", "namespace"], "many", "1")
    path = sessions.only / "processes.ndjson"
    path.write_bytes(path.read_bytes().replace(b'"uid":', b'"uid" :'))
    code, answer = sessions.verdict()
    assert (code, answer["verdict"]) == (1, "tampered")
    assert answer["first_bad"]["class"] == "processes mismatch"


def test_a_torn_line_of_a_killed_session_is_set_aside(sessions: Sessions) -> None:
    command = [sys.executable, str(PROBES / "attribution.py"), "wait", "alone"]
    with sessions.started(
        "run", "-s", *PYTHON_GRANTS, "--read", str(PROBES), "--isolation", "namespace", "--",
        *command, stdin=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "answered\n"
        process.kill()
        process.wait()
    path = sessions.only / "processes.ndjson"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"sequence":9,"pi')
    assert sessions.verdict()[1]["verdict"] == "crashed"
    recovered = sessions.call("audit", "recover", sessions.only.name)
    assert recovered.returncode == 0, recovered.stderr
    assert path.read_bytes() == whole
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_what_a_person_sees(sessions: Sessions) -> None:
    command = [sys.executable, str(PROBES / "attribution.py"), "wait", "seen"]
    done = sessions.run(
        "--follow",
        *PYTHON_GRANTS,
        "--read",
        str(PROBES),
        "--isolation",
        "namespace",
        "--",
        *command,
    )
    name = Path(sys.executable).resolve().name
    followed = next(line for line in done.stderr.splitlines() if " deny " in line)
    assert followed.endswith(f"  by {name}")
    assert f"denied programs: {name} attribution.py (seen.example)" in done.stderr
    shown = sessions.call("audit", "show", "latest").stdout
    assert f"{name} attribution.py" in shown
    answer = json.loads(sessions.call("audit", "show", "--json", "latest").stdout)
    (program,) = answer["programs"]
    assert (program["name"], program["denied"], program["processes"]) == (
        f"{name} attribution.py", 1, 1,
    )  # fmt: skip
    digest = hashlib.sha256(Path(sys.executable).resolve().read_bytes()).hexdigest()
    assert program["sha256"] == digest
