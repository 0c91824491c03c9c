"""Real cages: the command has stand-ins in its variables and files, and nobody shows the secret."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from harness import SYSTEM_PYTHON, has_ended, landlock_isolation, wait_until

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]

# Tells the variables, the files of the home that are named, and what writing one of them gives.
TELL = """
import json, os, sys
told = {"variables": dict(os.environ), "files": {}, "faults": {}}
for name in sys.argv[1:]:
    path = os.path.join(os.path.expanduser("~"), name)
    try:
        told["files"][name] = [open(path).read(), oct(os.stat(path).st_mode & 0o777)]
    except OSError as error:
        told["faults"][name] = str(error)
json.dump(told, sys.stdout)
"""


def told(sessions, isolation, options, *files):
    done = sessions.run("--isolation", isolation, *options, "--", SYSTEM_PYTHON, "-c", TELL, *files)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return json.loads(done.stdout), done.stderr


def profile(sessions, text: str) -> list[str]:
    (sessions.home / "own.toml").write_text(text)
    return ["-p", "./own.toml"]


def holds_secret(*directories: Path) -> list[Path]:
    files = [path for one in directories for path in one.rglob("*") if path.is_file()]
    return [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_no_variable_has_the_secret_whatever_flags_say(isolation, sessions) -> None:
    sessions.variables = {
        "GH_TOKEN": SECRET,
        "GITHUB_TOKEN": "ghp_another0another0another0another0anot",
        "PIP_INDEX_URL": f"https://me:{SECRET}@pypi.example.com/simple",
        "COPY": SECRET,
        "PLAIN": f"see {SECRET} there",
        "TWO_TOKENS": f"{SECRET}:another-secret-text",
        "DENIED": SECRET,
        "ENCODED": base64.b64encode(f"me:{SECRET}".encode()).decode(),
    }
    found, _ = told(
        sessions, isolation,
        ["--credential", "github", "--env-allow", "GH_*", "--env-allow", "PLAIN", "--env-deny",
         "DENIED", *profile(sessions, f'[environment.set]\nOWN = "x{SECRET}"')],
    )  # fmt: skip
    variables = found["variables"]
    stand_in = variables["GH_TOKEN"]
    assert stand_in.startswith("ghp_")
    assert len(stand_in) == len(SECRET)
    assert variables["GITHUB_TOKEN"] == variables["COPY"] == stand_in
    assert variables["PIP_INDEX_URL"] == f"https://me:{stand_in}@pypi.example.com/simple"
    assert variables["PLAIN"] == f"see {stand_in} there"
    assert variables["OWN"] == f"x{stand_in}"
    assert variables["ENCODED"] == base64.b64encode(f"me:{stand_in}".encode()).decode()
    assert not {"DENIED", "TWO_TOKENS"} & variables.keys()  # one may have another secret
    policy = (sessions.only / "policy.json").read_text()
    assert stand_in not in policy
    assert not holds_secret(sessions.state)


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize("home", ["private", "kept"])
def test_a_file_has_the_stand_in_at_its_path_and_is_gone_at_the_end(
    isolation, home, sessions
) -> None:
    docker = sessions.home / ".docker" / "config.json"
    docker.parent.mkdir()
    encoded = base64.b64encode(f"me:{SECRET}".encode()).decode()
    docker.write_text(json.dumps({"auths": {"registry.example.com": {"auth": encoded}}}))
    netrc = sessions.home / ".netrc"
    netrc.write_text(f"machine a.example login me password {SECRET}\nmachine b password p\n")
    (sessions.home / "link").symlink_to(netrc)
    key = sessions.home / "key"
    key.write_text(SECRET + "\n")
    options = profile(
        sessions,
        f'[credentials.mine]\nsource = "file://{key}"\nhosts = ["a.example.com"]\n'
        'variables = ["MINE"]\nfiles = ["~/.netrc", "~/.docker/config.json", "$HOME/link"]\n',
    )
    if home == "kept":
        options += ["--home", "kept=it"]
    for _ in range(2 if home == "kept" else 1):
        names = (".netrc", ".docker/config.json", "link", "key")
        found, said = told(sessions, isolation, options, *names)
        stand_in = found["variables"]["MINE"]
        text = f"machine a.example login me password {stand_in}\nmachine b password p\n"
        assert found["files"][".netrc"] == [text, "0o600"]
        assert found["files"]["link"] == [text, "0o600"]
        auths = json.loads(found["files"][".docker/config.json"][0])["auths"]
        encoded = auths["registry.example.com"]["auth"]
        assert base64.b64decode(encoded) == f"me:{stand_in}".encode()
        assert set(found["faults"]) == {"key"}
        assert "it held" not in said
    assert not holds_secret(sessions.state)
    assert not [path for path in (sessions.state / "credentials").rglob("*") if path.is_file()]
    assert netrc.read_text().count(SECRET) == 1


def test_a_granted_file_has_the_stand_in_too_and_is_not_to_be_changed(sessions) -> None:
    project = sessions.home / "project"
    project.mkdir()
    (project / ".npmrc").write_text(f"//registry.example.com/:_authToken={SECRET}\n")
    sessions.variables = {"NPM_TOKEN": SECRET}
    options = profile(
        sessions,
        '[credentials.npm]\nhosts = ["registry.example.com"]\nfiles = ["$WORKDIR/.npmrc"]\n',
    )
    script = (
        "import os\nprint(open('.npmrc').read())\nfor act in (lambda: open('.npmrc', 'w'),"
        " lambda: os.remove('.npmrc'), lambda: os.rename('.npmrc', 'x'),"
        " lambda: os.rename(os.getcwd(), os.getcwd() + '2')):\n"
        "    try: act(); print('done')\n    except OSError: pass\n"
    )
    done = sessions.run(
        *options, "--isolation", "namespace", "--allow", str(project), "--workdir", str(project),
        "--", SYSTEM_PYTHON, "-c", script,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "_authToken=" in done.stdout
    assert SECRET not in done.stdout
    assert "done" not in done.stdout
    assert SECRET in (project / ".npmrc").read_text()


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_what_an_earlier_command_left_in_a_kept_home_is_not_followed(isolation, sessions) -> None:
    sessions.variables = {"GH_TOKEN": SECRET}
    (sessions.home / ".netrc").write_text(f"password {SECRET}\n")
    (sessions.home / ".config").mkdir()
    (sessions.home / ".config" / "x").write_text(f"password {SECRET}\n")
    options = [
        *profile(sessions, '[credentials.github]\nfiles = ["~/.netrc", "~/.config/x"]\n'),
        "--home", "kept=it",
    ]  # fmt: skip
    victim = sessions.home / "victim"
    victim.write_text("mine")
    plant = (
        "import os; os.chdir(os.path.expanduser('~'));"
        f" os.symlink({str(victim)!r}, '.netrc'); os.symlink({str(sessions.home)!r}, '.config')"
    )
    done = sessions.run(
        "--isolation", isolation, "--home", "kept=it", "--", SYSTEM_PYTHON, "-c", plant
    )
    assert done.returncode == 0, done.stderr
    found, _ = told(sessions, isolation, options, ".netrc", ".config/x")
    stand_in = found["variables"]["GH_TOKEN"]
    assert found["files"][".netrc"][0] == f"password {stand_in}\n"
    assert found["files"][".config/x"][0] == f"password {stand_in}\n"
    assert victim.read_text() == "mine"
    assert not (sessions.home / "x").exists()


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_kept_home_is_afterwards_as_it_was(isolation, sessions) -> None:
    sessions.variables = {"GH_TOKEN": SECRET}
    for name in (".netrc", ".other"):
        (sessions.home / name).write_text(SECRET)
    options = profile(sessions, '[credentials.github]\nfiles = ["~/.netrc", "~/.other"]\n')
    own = ["--isolation", isolation, "--home", "kept=it"]
    for words in (
        ("sh", "-c", "echo mine >~/.netrc"),
        (*options, "--", "sh", "-c", "grep -q ghp_ ~/.netrc && grep -q ghp_ ~/.other"),
        ("sh", "-c", '[ "$(cat ~/.netrc)" = mine ] && [ ! -e ~/.other ]'),
    ):
        given = words if words[0] != "sh" else ("--", *words)
        done = sessions.run(*own, *given)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ("~/none", "can't be read"),
        ("~/other", "does not have its secret"),
        ("~/large", "has more than"),
        ("~/pipe", "can't be read"),
        ("~/directory", "can't be read"),
        ("~/loop", "can't be read"),
    ],
)
def test_a_file_that_can_not_be_shown_refuses_the_run(files, reason, sessions) -> None:
    sessions.variables = {"GH_TOKEN": SECRET}
    (sessions.home / "other").write_text("nothing in it")
    (sessions.home / "large").write_text(SECRET + "x" * (1 << 20))
    (sessions.home / "directory").mkdir()
    (sessions.home / "loop").symlink_to(sessions.home / "loop")
    os.mkfifo(sessions.home / "pipe")
    options = profile(sessions, f'[credentials.github]\nfiles = ["{files}"]\n')
    for more in ([], ["--dry-run"]) if files == "~/other" else ([],):
        done = sessions.run(*options, *more, "--", "true")
        assert done.returncode == 2
        assert reason in done.stderr
        assert "hint: " in done.stderr
        assert SECRET not in done.stderr
    assert not sessions.directories


@landlock_isolation
@pytest.mark.parametrize(
    ("where", "options", "reason"),
    [
        ("outside", [], "can't be shown to the command without namespaces"),
        ("home", ["--home", "closed"], "can't be shown to the command without namespaces"),
        ("home", ["--read-file", "~/.netrc"], "may read"),
        ("home", ["--no-sandbox"], "--no-sandbox shows"),
    ],
)
def test_landlock_isolation_shows_files_of_the_home_only(
    where, options, reason, sessions, tmp_path
) -> None:
    sessions.variables = {"GH_TOKEN": SECRET}
    path = sessions.home / ".netrc" if where == "home" else tmp_path / "file"
    path.write_text(SECRET)
    given = profile(sessions, f'[credentials.github]\nfiles = ["{path}"]\n')
    options = [one.replace("~", str(sessions.home)) for one in options]
    if "--read-file" in options:
        options += ["--bypass-protection", str(path)]
    done = sessions.run(*given, *options, "--isolation", "landlock", "--", "true")
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


def test_copies_are_for_their_user_alone(sessions) -> None:
    """What a killed session leaves, a later one removes: tests/session/test_command_files.py."""
    sessions.variables = {"GH_TOKEN": SECRET}
    (sessions.home / ".netrc").write_text(SECRET)
    given = profile(sessions, '[credentials.github]\nfiles = ["~/.netrc"]\n')
    words = ("run", "--isolation", "namespace", *given, "--", "sh", "-c", "echo; read x")
    with sessions.started(*words, stdin=subprocess.PIPE) as process:
        assert process.stdout.readline()
        (copy,) = (sessions.state / "credentials").rglob("0")
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
        process.stdin.close()
        process.stdin = None
        process.wait(60)
    assert not copy.exists()


@pytest.mark.parametrize(
    "word", [SECRET, f"x={SECRET}", base64.b64encode(SECRET.encode()).decode()]
)
def test_a_command_line_with_a_secret_is_refused(word, sessions) -> None:
    sessions.variables = {"GH_TOKEN": SECRET}
    done = sessions.run("--credential", "github", "--", "echo", word)
    assert done.returncode == 2
    assert "the command line has the secret of the credential github" in done.stderr
    assert "sh -c '... $GH_TOKEN ...'" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert not sessions.directories


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1)]
)
def test_a_signal_while_a_secret_is_asked_for_starts_nothing(
    number, code, sessions, tmp_path
) -> None:
    note = tmp_path / "pid"
    slow = tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {note}\nexec sleep 600\n")
    slow.chmod(0o755)
    with sessions.started(
        "run", "--credential", f"x=cmd://{slow}@a.example.com", "--", "true"
    ) as process:
        wait_until(lambda: note.exists() and bool(note.read_text()), "the command is asked")
        process.send_signal(number)
        assert process.wait(60) == code
    pid = int(note.read_text())
    wait_until(lambda: has_ended(pid), "the command is killed")
    assert not sessions.directories


def test_a_proxy_alone_tells_the_stand_ins_in_its_ready_line(sessions, tmp_path) -> None:
    sessions.variables = {"OPENAI_API_KEY": SECRET}
    ready = tmp_path / "ready"
    with sessions.proxy("--credential", "openai", "--ready-file", str(ready)) as (process, line):
        stand_in = line["credentials"]["openai"]
        assert stand_in.startswith("ghp_")
        assert stand_in != SECRET
        assert json.loads(ready.read_text()) == line
        assert "ca_file" in line
        assert not holds_secret(sessions.state)
        process.terminate()
        assert process.wait(60) == 0
    policy = json.loads((sessions.only / "policy.json").read_text())
    assert policy["network"]["credentials"][0]["name"] == "openai"


def test_credentials_with_equal_secrets_have_each_its_own_stand_in(sessions) -> None:
    sessions.variables = {"GH_TOKEN": SECRET, "ONE": SECRET, "TWO": SECRET}
    found, _ = told(
        sessions, "namespace",
        ["--credential", "github", "--credential", "a=env://ONE@a.example.com",
         "--credential", "b=env://TWO@b.example.com"],
    )  # fmt: skip
    names = ("GH_TOKEN", "ONE", "TWO")
    assert len({found["variables"][name] for name in names}) == 3


def test_a_credential_whose_variable_is_another_ones_refuses_the_run(sessions) -> None:
    sessions.variables = {"ONE": SECRET}
    names = ("a=env://ONE@a.example.com", "b=env://ONE@b.example.com")
    both = [word for name in names for word in ("--credential", name)]
    done = sessions.run(*both, "--", "true")
    assert done.returncode == 2
    assert "the credentials a and b both have the variable ONE" in done.stderr
    options = profile(sessions, '[credentials.a]\nvariables = ["ONE_2"]\n')
    found, _ = told(sessions, "namespace", [*options, *both])
    assert found["variables"]["ONE"] != found["variables"]["ONE_2"]
