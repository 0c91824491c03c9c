"""`--fail-on-deny` judges jobs of real tools: innocent ones end with 0, guilty ones with 3.

Each job succeeds by itself. A tool that is not installed skips its jobs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from harness import PYTHON_GRANTS, allow, free_port, landlock_isolation

if TYPE_CHECKING:
    from harness import Origin, Sessions

PIP = (
    f"{shlex.quote(sys.executable)} -m pip download --disable-pip-version-check --retries 0"
    " --no-deps --no-cache-dir --index-url http://{name}:{port}/simple/ --trusted-host {name}"
    " nothing"
)
NPM = "npm view nothing --registry http://{name}:{port}/ --fetch-retries 0"
GIT = "git ls-remote http://{name}:{port}/nothing.git"
CURL = "curl -fsS -o /dev/null --max-time 20"


needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse can't be opened here"
)


@dataclass(frozen=True)
class Job:
    """A shell script, the flags beside --fail-on-deny, and whether it must fail.

    In both {port} is the origin's, which {name} is allowed at, and {dead} one without a service.
    """

    script: str
    flags: str = ""
    needs: str = "curl"


DEAD = "--allow-domain {name}:{dead} --resolve {name}:{dead}:127.0.0.1"
INNOCENT = {
    "an allowed host": Job(CURL + " http://{name}:{port}/"),
    "an allowed host without the proxy": Job(CURL + " --noproxy '*' http://{name}:{port}/"),
    "git, which is asked for the password": Job(GIT, needs="git"),
    "pip, which looks for its settings": Job(PIP),
    "npm, which looks for its settings": Job(NPM, needs="npm"),
    "a dead mirror": Job(
        CURL + " http://{name}:{dead}/ || " + CURL + " http://{name}:{port}/", DEAD
    ),
    "a dead mirror without the proxy": Job(CURL + " --noproxy '*' http://{name}:{dead}/", DEAD),
    "expected telemetry": Job(
        CURL + " https://t.example.net/ || " + CURL + " http://{name}:{port}/",
        "--expect-deny '*.example.net'",
    ),
    "expected telemetry without the proxy": Job(
        CURL + " --noproxy '*' https://t.example.net/", "--expect-deny t.example.net:443"
    ),
    "a host of the deny list": Job(
        CURL + " https://t.example.net/ ; getent hosts t.example.net",
        "--deny-domain t.example.net",
    ),
    "waiting for a server of its own": Job(
        "for n in 1 2 3 4 5; do (exec 3<>/dev/tcp/127.0.0.1/{dead}) 2>/dev/null; done",
        needs="bash",
    ),
    "waiting for an open port": Job(
        "for n in 1 2 3; do (exec 3<>/dev/tcp/127.0.0.1/{dead}; read -r x <&3); done",
        "--open-port {dead}",
        needs="bash",
    ),
    "files that are not there": Job("cat ~/.netrc ~/.ssh/id_rsa", needs="cat"),
}
GUILTY = {
    "a denied host": Job(CURL + " http://evil.example.net/"),
    "a denied host by TLS": Job(CURL + " https://evil.example.net/"),
    "a denied host without the proxy": Job(CURL + " --noproxy '*' https://evil.example.net/"),
    "another port of an allowed host": Job(CURL + " http://{name}:{dead}/"),
    "a port of an address": Job("exec 3<>/dev/tcp/192.0.2.1/9092", needs="bash"),
    "a datagram": Job("echo x >/dev/udp/192.0.2.1/123", needs="bash"),
    "a denied name that is only looked up": Job("getent hosts evil.example.net", needs="getent"),
    "a metadata address": Job(CURL + " http://169.254.169.254/latest/"),
    "git to another host": Job("git ls-remote http://evil.example.net/nothing.git", needs="git"),
    "pip to another index": Job(
        PIP.replace("{name}:{port}", "evil.example.net").replace("{name}", "evil.example.net")
    ),
    "npm to another registry": Job(NPM.replace("{name}:{port}", "evil.example.net"), needs="npm"),
    "telemetry beside what is expected": Job(
        CURL + " https://t.example.net/ https://evil.example.net/", "--expect-deny t.example.net"
    ),
    "the deny list, if all counts": Job(
        CURL + " https://t.example.net/", "--deny-domain t.example.net --fail-on all"
    ),
}
GUILTY_OF_FILES = {
    "a file created outside": Job("echo new >/srv/site/of-a-test"),
    "a directory created outside": Job("mkdir /directory-of-a-test"),
    "a tripwire": Job("cat /srv/of-a-test", "--fail-on-path /srv/of-a-test"),
    "a tripwire's pattern": Job("cat /srv/of-a-test", "--fail-on-path '/sr*'"),
    "a look-up, if all counts": Job("cat /srv/of-a-test", "--fail-on all"),
}


def judged(sessions: Sessions, origin: Origin, job: Job) -> int:
    if shutil.which(job.needs) is None:
        pytest.skip(f"{job.needs} is not installed")
    known = {"name": "mirror.example.com", "port": origin.port, "dead": free_port()}
    flags = [word.format(**known) for word in shlex.split(job.flags)]
    script = re.sub(r"\{(name|port|dead)\}", lambda match: str(known[match[1]]), job.script)
    done = sessions.run(
        "--isolation", "namespace", "--fail-on-deny", *PYTHON_GRANTS,
        *allow(origin, "mirror.example.com"), *flags,
        "--", "bash", "-c", f"{{ {script}; }} >/dev/null 2>&1; true",
    )  # fmt: skip
    print(done.stderr)
    return done.returncode


@pytest.mark.parametrize("name", INNOCENT)
def test_an_innocent_job_succeeds(sessions: Sessions, origin: Origin, name: str) -> None:
    job = INNOCENT[name]
    assert judged(sessions, origin, job) == 0
    assert bool(origin.seen) == ("{port}" in job.script)  # what it may do is done


@pytest.mark.parametrize("name", GUILTY)
def test_a_guilty_job_fails(sessions: Sessions, origin: Origin, name: str) -> None:
    assert judged(sessions, origin, GUILTY[name]) == 3


@needs_fuse
@pytest.mark.parametrize("name", GUILTY_OF_FILES)
def test_a_job_that_is_guilty_of_a_file_fails(
    sessions: Sessions, origin: Origin, name: str
) -> None:
    assert judged(sessions, origin, GUILTY_OF_FILES[name]) == 3


@needs_fuse
def test_a_look_up_of_another_file_trips_nothing(sessions: Sessions, origin: Origin) -> None:
    job = Job("cat /srv/of-a-test", "--fail-on-path /root/.ssh")
    assert judged(sessions, origin, job) == 0


@landlock_isolation
def test_a_tripwire_that_can_not_fire_is_warned_of(sessions: Sessions) -> None:
    done = sessions.run("--isolation", "landlock", "-s", "--fail-on-path", "~/.ssh", "--", "true")
    assert done.returncode == 0
    assert "warning: --fail-on-path sees no look-ups of files here" in done.stderr


def test_run_list_and_show_have_the_same_numbers_and_both_exit_codes(
    sessions: Sessions, origin: Origin
) -> None:
    dead = free_port()
    script = (
        f"{CURL} http://mirror.example.com:{origin.port}/ http://mirror.example.com:{dead}/"
        " --next --noproxy '*' -sS https://evil.example.net/; getent hosts x.example.net; true"
    )
    done = sessions.run(
        "--isolation", "namespace", "--fail-on-deny", *allow(origin, "mirror.example.com"),
        "--allow-domain", f"mirror.example.com:{dead}",
        "--resolve", f"mirror.example.com:{dead}:127.0.0.1", "--", "sh", "-c", script,
    )  # fmt: skip
    numbers = "2 denied, 1 failed, 1 allowed"
    assert done.returncode == 3
    assert f"nono-trio: {numbers}\n" in done.stderr
    assert f"nono-trio: failed mirror.example.com:{dead} (1x): can't connect to" in done.stderr
    assert "exit code 3: --fail-on-deny, and 2 denied: evil.example.net:443" in done.stderr
    shown = sessions.call("audit", "show").stdout
    assert numbers in shown
    assert "exit code 3 (--fail-on-deny; the command's own was 0)" in shown
    (row,) = json.loads(sessions.call("audit", "list", "--json").stdout)["sessions"]
    assert (row["denied"], row["failed"], row["allowed"]) == (2, 1, 1)
    assert (row["exit_code"], row["run_exit_code"]) == (0, 3)
    assert numbers in sessions.call("inspect", "latest").stdout
    assert sessions.verdict()[0] == 0


@pytest.mark.parametrize("entry", ["", "https://a.example.com", "a.example.com:0", "*"])
def test_an_invalid_expectation_is_a_usage_error(sessions: Sessions, entry: str) -> None:
    done = sessions.run("--expect-deny", entry, "--", "true")
    assert done.returncode == 2
    assert "--expect-deny" in done.stderr
    assert "--deny-domain" not in done.stderr
