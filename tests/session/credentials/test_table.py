"""The credentials of a session: sources that the command must not reach, and the stand-ins."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess

import pytest

from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem.plan import FilePlan, Grant
from nono_trio.session.credentials.access import guard_keyring
from nono_trio.session.credentials.table import open_credentials
from nono_trio.session.opened_files import OpenedFiles

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
OTHER = "sk-ant-api03-abcdefghijklmnopqrstuvwx-yz0123456789"


def plan(path: object, access: str = "read", covered: tuple[str, ...] = ()) -> OpenedFiles:
    grant = Grant(str(path), access, is_file=False, source="--grant")
    files = FilePlan((grant,), (), covered, kept=(), start="/", directory="/")
    return OpenedFiles(files, sandbox=True)


def opened(credentials, environment=None, files=None):
    environment = {"PATH": os.environ["PATH"], **(environment or {})}
    return open_credentials(credentials, environment, files)


def test_a_stand_in_has_the_shape_of_the_secret_and_is_shown_nowhere() -> None:
    environment = {"GH_TOKEN": SECRET}
    table = opened([make_credential("github", environment)], environment)
    (held,) = table.held
    assert re.fullmatch(rb"ghp_[A-Za-z0-9]{36}", held.stand_in)
    assert held.stand_in != SECRET.encode()
    assert held.stand_in.decode() not in repr(table)
    assert SECRET not in repr(table)


def test_each_session_and_each_credential_has_its_own() -> None:
    environment = {"A": SECRET, "B": SECRET}
    both = [
        make_credential(name, environment, source=f"env://{name.upper()}", hosts=["a.example"])
        for name in "ab"
    ]
    made = [one.stand_in for _ in range(2) for one in opened(both, environment).held]
    assert len(set(made)) == 4


@pytest.mark.parametrize(
    ("value", "reason"), [("tiny", "is shorter than"), ("two\nlines-of-it", "line break")]
)
def test_a_secret_that_can_have_no_stand_in_refuses_the_run(value, reason) -> None:
    one = make_credential("one", {}, source="env://ONE", hosts=["a.example"])
    with pytest.raises(UsageError, match=reason) as raised:
        opened([one], {"ONE": value})
    assert value not in raised.value.message
    assert raised.value.hint


def test_a_key_of_many_lines_is_for_bodies() -> None:
    one = make_credential("one", {}, source="env://ONE", hosts=["a.example"], places=["body"])
    assert opened([one], {"ONE": "a key\nof two lines"}).held


def test_a_missing_secret_refuses_the_run_unless_it_is_optional() -> None:
    github = make_credential("github", {})
    with pytest.raises(UsageError, match="credential github: the variable GH_TOKEN is not set"):
        opened([github])
    optional = make_credential("github", {}, optional=True)
    missing = make_credential(
        "one", {}, source="cmd://no-such-program", hosts=["a.example"], optional=True
    )
    table = opened([optional, missing])
    assert table.held == ()
    assert [text.partition(",")[0] for text in table.warnings] == [
        "credential one has no secret", "credential github has no secret",
    ]  # fmt: skip


async def test_what_is_held_gives_the_secret_of_now(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    one = make_credential("one", {}, source=f"file://{path}", hosts=["a.example"])
    (held,) = opened([one]).held
    path.write_text(OTHER)
    assert await held.secret() == OTHER.encode()
    assert held.at_start == SECRET.encode()


def test_a_command_line_has_no_variable_of_other_credentials(tmp_path) -> None:
    script = "import os; print(sorted(n for n in os.environ if n.startswith('X_')))"
    mine = make_credential(
        "mine", {}, source=f'cmd://python3 -c "{script}"', hosts=["a.example"], variables=["X_MINE"]
    )
    other = make_credential(
        "other", {}, source="env://X_SOURCE", hosts=["a.example"], variables=["X_OTHER"]
    )
    environment = {"X_MINE": "1", "X_SOURCE": SECRET, "X_OTHER": "3", "X_NONE": "4"}
    mine_held, _ = opened([mine, other], environment).held
    assert mine_held.at_start == b"['X_MINE', 'X_NONE']"


def test_a_file_that_the_command_may_read_or_choose_is_refused(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "key").symlink_to(path)
    one = make_credential("one", {}, source=f"file://{path}", hosts=["a.example"])
    linked = make_credential("one", {}, source=f"file://{tmp_path}/links/key", hosts=["a.example"])
    with pytest.raises(UsageError, match=r"may read .* itself, by --grant") as raised:
        opened([one], files=plan(tmp_path))
    assert raised.value.hint == (
        f"in namespace isolation --deny {path} closes it; else grant directories beside it"
    )
    assert opened([one], files=plan(tmp_path, covered=(str(path),))).held
    for files in (plan(tmp_path, "readwrite"), plan(tmp_path, "write", (str(path),))):
        with pytest.raises(UsageError, match="may change"):
            opened([one], files=files)
    with pytest.raises(UsageError, match="may change"):  # it may put another link there
        opened([linked], files=plan(tmp_path / "links", "write"))
    without = OpenedFiles(FilePlan((), (), (), (), start="/", directory="/"), sandbox=False)
    assert "can read" in opened([one], files=without).warnings[0]


def test_a_program_that_the_command_may_change_is_not_run(tmp_path) -> None:
    planted = tmp_path / "bin" / "get-key"
    planted.parent.mkdir()
    planted.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\necho {SECRET}\n")
    planted.chmod(stat.S_IRWXU)
    files = plan(tmp_path / "bin", "readwrite")
    environment = {"PATH": f"{planted.parent}:{os.environ['PATH']}"}
    for source in ("cmd://get-key", f"cmd://{planted}"):
        one = make_credential("one", {}, source=source, hosts=["a.example"])
        with pytest.raises(UsageError, match="would run outside of the cage"):
            opened([one], environment, files)
    # Nor what a command starts: such directories are not in its PATH.
    one = make_credential(
        "one", {}, source='cmd://sh -c "echo PATH=$PATH"'.replace("$PATH", "\\$PATH"),
        hosts=["a.example"],
    )  # fmt: skip
    shown = opened([one], environment, files).held[0].at_start.decode()
    assert str(planted.parent) not in shown
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("form", ["cmd://{0}", "cmd://sh {0}", "file://{0}"])
def test_a_second_name_of_a_file_is_told_and_a_copy_is_taken(tmp_path, form) -> None:
    open_, closed = tmp_path / "open", tmp_path / "closed"
    for one in (open_, closed):
        one.mkdir()
    named = closed / "get key"
    named.write_text(f"#!/bin/sh\necho {SECRET}\n" if form.startswith("cmd") else SECRET)
    named.chmod(stat.S_IRWXU)
    (open_ / "second").hardlink_to(named)
    files = plan(open_, "readwrite")

    def source(path):
        return form.format(path if form.startswith("file") else shlex.quote(str(path)))

    one = make_credential("one", {}, source=source(named), hosts=["a.example"])
    with pytest.raises(UsageError, match=r"another name \(a hard link\)") as raised:
        opened([one], files=files)
    command = raised.value.hint.partition(": ")[2]
    subprocess.run(command, shell=True, check=True)
    copy = make_credential("one", {}, source=source(f"{named}.copy"), hosts=["a.example"])
    assert opened([copy], files=files).held


def test_a_program_that_only_a_cleaned_path_gives_is_checked_too(tmp_path, monkeypatch) -> None:
    """The user's PATH begins with a relative directory, which a command line does not get."""
    first, second, open_ = (tmp_path / one for one in ("first", "second", "open"))
    for one in (first, second, open_):
        one.mkdir()
    script = f"\ntouch {tmp_path}/ran\necho {SECRET}\n"
    (open_ / "own-sh").symlink_to("/bin/sh")
    for one, interpreter in ((first, "/bin/sh"), (second, open_ / "own-sh")):
        (one / "get-key").write_text(f"#!{interpreter}{script}")
        (one / "get-key").chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    environment = {"PATH": f"first:{second}:{os.environ['PATH']}"}
    one = make_credential("one", {}, source="cmd://get-key", hosts=["a.example"])
    with pytest.raises(UsageError, match="would run outside of the cage"):
        opened([one], environment, plan(open_, "readwrite"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "line",
    [
        "sh {0}/get-key", "sh -c '. {0}/get-key'", "sh -c '\"{0}/get-key\"'",
        "sh -c '$HOME/get-key'",
        "env -C {0} sh get-key", "python3 --file={0}/none-yet", "{1}/script", "{1}/by-env",
    ],
)  # fmt: skip
def test_what_a_command_line_runs_or_names_is_not_the_commands_to_change(line, tmp_path) -> None:
    open_, closed = tmp_path / "open", tmp_path / "closed"
    for one in (open_, closed):
        one.mkdir()
    (open_ / "get-key").write_text(f"touch {tmp_path}/ran\necho {SECRET}\n")
    (open_ / "own-sh").symlink_to("/bin/sh")
    for name, first in (
        ("script", f"#!{open_}/own-sh"),
        ("by-env", f"#!/usr/bin/env {open_}/own-sh"),
    ):
        (closed / name).write_text(f"{first}\ntouch {tmp_path}/ran\necho {SECRET}\n")
        (closed / name).chmod(stat.S_IRWXU)
    one = make_credential(
        "one", {}, source="cmd://" + line.format(open_, closed), hosts=["a.example"]
    )
    with pytest.raises(UsageError, match=r"may change .* outside of the cage"):
        opened([one], {"HOME": str(open_)}, plan(open_, "readwrite"))
    assert not (tmp_path / "ran").exists()


def test_a_command_line_has_no_variable_that_leads_to_what_the_command_may_write(tmp_path) -> None:
    script = (
        "import os; print(sorted(n for n in os.environ if n.startswith('X_')), os.environ['HOME'])"
    )
    open_, closed = tmp_path / "open", tmp_path / "closed"
    open_.mkdir()
    environment = {
        "X_FILE": f"{open_}/settings", "X_OPTION": f"--require={open_}/code.js", "X_HOME": "~/x",
        "X_LIST": f"{closed}:{open_}", "X_DIRECTORY": str(open_), "HOME": str(open_),
        "X_OTHER": f"{closed}/x", "X_URL": f"https://a.example{open_}", "X_DEVICE": "/dev/null",
    }  # fmt: skip
    one = make_credential("one", {}, source=f'cmd://python3 -c "{script}"', hosts=["a.example"])
    (held,) = opened([one], environment, plan(open_, "readwrite")).held
    assert held.at_start.decode() == f"['X_DEVICE', 'X_OTHER', 'X_URL'] {open_}"


def test_a_command_line_may_name_other_files_and_devices(tmp_path) -> None:
    line = f"cmd://sh -c 'echo {SECRET} >/dev/stdout; : https://a.example{tmp_path}/x 2>/dev/null'"
    one = make_credential("one", {}, source=line, hosts=["a.example"])
    assert opened([one], files=plan("/dev", "readwrite")).held
    assert opened([one], files=plan(tmp_path, "readwrite")).held


def test_settings_of_the_keyring_that_the_command_may_change_are_refused(tmp_path) -> None:
    one = make_credential("one", {}, source="keyring://a/b", hosts=["a.example"])
    with pytest.raises(UsageError, match="code that the keyring loads"):
        opened([one], {"XDG_CONFIG_HOME": str(tmp_path)}, plan(tmp_path, "readwrite"))


@pytest.mark.parametrize(
    ("settings", "variables", "reason"),
    [
        ("keyring-path={open}/x", {}, "code in {open}/x, from which the keyring loads"),
        ("keyring-path={open}/..", {}, "code in {above}, from which the keyring loads"),
        ("keyring-path={closed}/link", {}, "code in {closed}/link, from which"),
        ("", {"DBUS_SESSION_BUS_ADDRESS": "unix:guid=0,path={open}%2Fbus"}, "replace {open}/bus"),
        ("", {"XDG_RUNTIME_DIR": "{open}"}, "replace {open}/bus, by which the keyring is reached"),
        ("", {"XDG_DATA_HOME": "{open}"}, "change {open}/python_keyring, in which keyrings have"),
        ("keyring-path={closed}", {"XDG_RUNTIME_DIR": "{closed}"}, None),
        ("keyring-path", {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract={open}/x,guid=0"}, None),
    ],
)
def test_the_command_chooses_neither_code_nor_socket_of_the_keyring(
    tmp_path, settings, variables, reason, monkeypatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    closed, open_ = tmp_path / "closed", tmp_path / "open"
    for one in (closed / "python_keyring", open_):
        one.mkdir(parents=True)
    (closed / "link").symlink_to(open_)
    names = {"open": open_, "closed": closed, "above": tmp_path}
    (closed / "python_keyring" / "keyringrc.cfg").write_text(
        f"[backend]\n{settings.format(**names)}\n"
    )
    environment = {name: value.format(**names) for name, value in variables.items()}
    environment |= {"XDG_CONFIG_HOME": str(closed), "PATH": f"{open_}:/usr/bin"}
    found = guard_keyring(plan(open_, "readwrite"), environment)
    assert (found is None) == (reason is None)
    assert (reason or "").format(**names) in (found or "")
    assert os.environ["PATH"] == "/usr/bin"  # some backends run a program
