"""A command's home: kept, private or closed; and what a hostile command makes of it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import landlock_isolation, wait_until

from nono_trio.core.policy.home_choice import home_name, is_stored_name, parse_home, stored_name
from nono_trio.core.policy.secret_files import looks_secret
from nono_trio.errors import UsageError
from nono_trio.sandbox import hostile_copy
from nono_trio.sandbox.launcher.hostile_tree import entered, names_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from subprocess import CompletedProcess

    from harness import Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]


@pytest.fixture
def work(sessions: Sessions) -> Path:
    """A project below the real home, with a file in that home that no cage may see or change."""
    directory = sessions.home / "work"
    directory.mkdir()
    (sessions.home / ".toolrc").write_text("the user's own")
    return directory


@pytest.fixture(params=ISOLATIONS)
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def shell(
    sessions: Sessions, work: Path, options: Sequence[str], script: str
) -> CompletedProcess[str]:
    return sessions.run(*options, "--allow-cwd", "--", "sh", "-c", script, cwd=work)


def homes(sessions: Sessions) -> list[str]:
    return [home["name"] for home in listed(sessions)]


def listed(sessions: Sessions) -> list[dict[str, object]]:
    done = sessions.call("home", "list", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)["homes"]
    return found


def entry(sessions: Sessions, name: str) -> Path:
    return sessions.home / ".local/share/nono-trio/homes" / name


def content(directory: Path) -> dict[str, str]:
    """Every file below a directory but ours, with its text."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file() and "nono-trio" not in path.parts
    }


# -- what a command finds in its home -------------------------------------------------------------


def test_a_kept_home_lasts_and_the_real_one_is_as_it_was(sessions, work, isolation):
    options = ["--isolation", isolation, "--home", "kept"]
    before = content(sessions.home)
    first = shell(sessions, work, options, "ls -A ~; echo secret >~/.login; cat ~/.toolrc")
    assert first.stdout == "work\n"
    assert "is new" in first.stderr
    second = shell(sessions, work, options, "cat ~/.login")
    assert second.stdout == "secret\n", second.stderr
    assert "is new" not in second.stderr
    assert content(sessions.home) == before
    (name,) = homes(sessions)
    assert name == stored_name(home_name("default", str(work)), isolation)
    home = entry(sessions, name)
    assert {path.stat().st_mode & 0o777 for path in (home, home.parent, home / "home")} == {0o700}
    facts = json.loads((sessions.directories[0] / "session.json").read_text())["nono_trio"]
    assert facts["home"] == f"kept {name}"


def test_a_private_home_is_named_and_gone(sessions, work, isolation):
    script = "ls -A ~; mkdir ~/.cache; echo x >~/.cache/a; echo x >~/.b; cat ~/.toolrc"
    done = shell(sessions, work, ["--isolation", isolation], script)
    assert done.stdout == "work\n"
    assert "it held 2 files: .b, .cache/a\n" in done.stderr
    assert "--home kept" in done.stderr
    done = shell(sessions, work, ["--isolation", isolation], "ls -A ~")
    assert (done.stdout, "home ended" in done.stderr) == ("work\n", False)
    assert homes(sessions) == []
    assert list(content(sessions.home)) == [".toolrc"]


def test_a_closed_home_takes_nothing(sessions, work, isolation):
    options = ["--isolation", isolation, "--home", "closed"]
    done = shell(sessions, work, options, f"echo x >{sessions.home}/.new; cat ~/.toolrc")
    assert (done.returncode, done.stdout) == (1, "")
    assert list(content(sessions.home)) == [".toolrc"]


def test_grants_below_the_real_home_appear_in_it(sessions, work, isolation):
    tools = sessions.home / "a" / "tools"
    tools.mkdir(parents=True)
    (tools / "one").write_text("one")
    (sessions.home / "linked").symlink_to(tools)
    (sessions.home / ".gitconfig").write_text("config")
    options = ["--isolation", isolation, "--home", "kept", "--read", str(tools)]
    options += ["--read-file", str(sessions.home / ".gitconfig")]
    script = (
        "cat ~/a/tools/one ~/.gitconfig; echo x >~/a/tools/two || echo x >~/.gitconfig ||"
        " echo closed; echo here >~/a/mine"
    )
    for _ in range(2):
        done = shell(sessions, work, options, script)
        assert done.stdout == "oneconfigclosed\n", done.stderr
    assert sorted(path.name for path in (sessions.home / "a").iterdir()) == ["tools"]
    # Without the grants nothing of them is left in the way.
    bare = ["--isolation", isolation, "--home", "kept"]
    done = shell(sessions, work, bare, "ls -A ~ ~/a; echo own >~/.gitconfig; cat ~/.gitconfig")
    home = sessions.home if isolation == "namespace" else entry_of_only(sessions) / "home"
    assert done.stdout.split() == [f"{home}:", "a", "work", f"{home}/a:", "mine", "own"]
    assert (sessions.home / ".gitconfig").read_text() == "config"
    # A file of its own is not lost for a grant, and not written through: a mount covers it, for
    # a link it is set aside.
    done = shell(sessions, work, options, script)
    assert done.stdout == "oneconfigclosed\n"
    assert ("is in the way of a grant" in done.stderr) is (isolation == "landlock")
    assert shell(sessions, work, bare, "cat ~/.gitconfig*").stdout == "own\n"


def entry_of_only(sessions: Sessions) -> Path:
    (name,) = homes(sessions)
    return entry(sessions, name)


@landlock_isolation
def test_without_mounts_variables_name_the_cages_home(sessions, work):
    sessions.variables |= {
        "CARGO_HOME": f"{sessions.home}/.cargo",
        "XDG_CACHE_HOME": "/var/elsewhere",
        "TOOL_DIR": str(work),
    }
    script = 'echo "$HOME" "$CARGO_HOME" "${XDG_CACHE_HOME-unset}" "$TOOL_DIR"'
    done = shell(sessions, work, ["--isolation", "landlock", "--home", "kept"], script)
    home = f"{entry_of_only(sessions)}/home"
    assert done.stdout.split() == [home, f"{home}/.cargo", "unset", str(work)]
    assert "programs that ask the account" in done.stderr


def test_homes_are_apart_by_directory_profile_name_and_isolation(sessions, work):
    other = sessions.home / "other"
    other.mkdir()
    write = "test ! -e ~/x && echo x >~/x"
    for directory, options in (
        (work, ["--home", "kept"]),
        (other, ["--home", "kept"]),
        (work, ["-p", "python-dev"]),
        (work, ["--home", "kept=mine"]),
    ):
        done = sessions.run(*options, "--", "sh", "-c", write, cwd=directory)
        assert done.returncode == 0, done.stderr
    again = sessions.run("--home", "kept=mine", "--", "sh", "-c", "cat ~/x", cwd=other)
    assert again.stdout == "x\n"
    assert len(homes(sessions)) == 4


def test_a_second_session_gets_a_copy(sessions, work, isolation):
    options = ["--isolation", isolation, "--home", "kept=h"]
    fill = (
        "mkdir -p ~/d/e; echo one >~/d/e/f; ln -s /etc/passwd ~/l; mkfifo ~/p; touch ~/x;"
        " chmod 755 ~/x; chmod 0 ~/d/e/f"
    )
    assert shell(sessions, work, options, fill).returncode == 0
    with sessions.started(
        "run", *options, "--", "sh", "-c", "chmod 600 ~/d/e/f; echo up; read _", stdin=-1, cwd=work
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        script = "cat ~/d/e/f; readlink ~/l; test -x ~/x && test ! -e ~/p && echo two >~/d/e/f"
        done = shell(sessions, work, options, script)
        assert (done.returncode, done.stdout) == (0, "one\n/etc/passwd\n"), done.stderr
        assert f"h.{isolation} is in use by another session: this one has h-2.{isolation}" in (
            done.stderr
        )
        done = shell(sessions, work, options, "cat ~/d/e/f")  # it is not copied again
        assert done.stdout == "two\n", done.stderr
        assert f"this one has h-2.{isolation}" in done.stderr
        done = sessions.call("home", "remove", f"h.{isolation}")
        assert (done.returncode, "is in use" in done.stderr) == (2, True)
        assert [home["in_use"] for home in listed(sessions)] == [False, True]
        first.communicate("\n", timeout=60)
    assert shell(sessions, work, options, "cat ~/d/e/f").stdout == "one\n"


def test_a_second_session_never_gets_a_home_that_was_named_by_somebody(sessions, work, isolation):
    """Another's home may have the name that a copy would get."""
    options = ["--isolation", isolation, "--home"]
    assert shell(sessions, work, [*options, "kept=h-2"], "echo secret >~/.login").returncode == 0
    first_options = [*options, "kept=h", "--allow-cwd"]
    with sessions.started(
        "run", *first_options, "--", "sh", "-c", "echo up; read _", stdin=-1, cwd=work
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        done = shell(sessions, work, [*options, "kept=h"], "cat ~/.login; echo mine >~/.login")
        assert done.stdout == "", done.stdout
        assert f"this one has h-3.{isolation}" in done.stderr
        done = shell(sessions, work, [*options, "kept=h"], "cat ~/.login")  # the copy is found
        assert done.stdout == "mine\n", done.stderr
        first.communicate("\n", timeout=60)
    assert shell(sessions, work, [*options, "kept=h-2"], "cat ~/.login").stdout == "secret\n"


def test_a_copy_leaves_out_what_becomes_something_else_meanwhile(tmp_path, monkeypatch):
    """The running session's command swaps directories for links while its home is copied."""
    source, target = tmp_path / "source", tmp_path / "target"
    target.mkdir()
    for name in ("a", "b", "c"):
        (source / name).mkdir(parents=True)
        (source / name / "file").write_text(name)
    looked = 0

    def swap(directory: int, most: int) -> list[str]:
        nonlocal looked
        looked += 1
        if looked == 2:  # the upper level was read, and said that all three are directories
            (source / "a").rename(tmp_path / "was-a")
            (source / "a").symlink_to("/etc")
            (source / "b").rename(tmp_path / "was-b")
            (source / "b").write_text("a file")
        return names_in(directory, most)

    monkeypatch.setattr(hostile_copy, "names_in", swap)
    with entered(str(source)) as here, entered(str(target)) as there:
        assert hostile_copy.copy_tree(here, there).whole
    assert content(target) == {"c/file": "c"}


def test_a_home_is_free_again_after_its_supervisor_was_killed(sessions, work, isolation):
    options = ["--isolation", isolation, "--home", "kept=h", "--grace", "0"]
    script = "echo x >~/x; echo up; exec sleep 60"
    with sessions.started("run", *options, "--", "sh", "-c", script, cwd=work) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        first.send_signal(signal.SIGKILL)
        first.wait(60)
    wait_until(lambda: not listed(sessions)[0]["in_use"], "the home is free", 60)
    done = shell(sessions, work, options, "cat ~/x")
    assert (done.stdout, homes(sessions)) == ("x\n", [f"h.{isolation}"])


# -- what it is asked with ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--home", "kep"], "expected kept, kept=NAME, private or closed, got 'kep'"),
        (["--home", "kept=../x"], "expected a name of at most 64 letters"),
        (["--home", "kept="], "expected a name of at most 64 letters"),
        (["--home", "kept", "--no-sandbox"], "--home kept and --no-sandbox contradict each other"),
    ],
)
def test_what_can_not_be_meant_is_refused(sessions, options, expected):
    done = sessions.run("--dry-run", *options, "--", "true")
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr


def test_names_are_file_names_whatever_they_are_made_of():
    for profile, directory in (
        ("../../etc/x.toml", "/"),
        ("\x1b[2J", "/a\n/\u202e"),
        ("p", "/ä b"),
    ):
        name = stored_name(home_name(profile, directory), "namespace", 16)
        assert is_stored_name(name), name
    assert home_name("p", "/a/b") != home_name("p", "/a/b ") != home_name("q", "/a/b")
    assert not is_stored_name(".new-0123.namespace")
    assert not is_stored_name("a/b.namespace")
    assert parse_home("kept=a-1") == ("kept", "a-1")
    with pytest.raises(UsageError):
        parse_home("closed=x")


def test_a_granted_home_is_the_real_one(sessions, work):
    cage = sessions.run(
        "--dry-run", "--json", "--isolation", "namespace", "--read", str(sessions.home),
        "--audit-dir", "/var/empty-state", "--", "true", cwd=work,
    )  # fmt: skip
    home = json.loads(cage.stdout)["home"]
    assert (home["kind"], home["path"]) == ("closed", None)
    assert f"the real one is granted: --read {sessions.home}" in home["why_closed"]


def test_dry_run_and_why_say_which_home_and_make_none(sessions, work, isolation):
    options = ["--isolation", isolation, "-p", "python-dev"]
    done = sessions.run(*options, "--dry-run", "--", "true", cwd=work)
    assert f".{isolation}, which will be made  (built-in python-dev.toml:" in done.stdout
    done = sessions.call("why", "--path", "~/.toolrc", *options, "--json", cwd=work)
    answer = json.loads(done.stdout)
    assert answer["status"] == "denied"
    (note,) = [note for note in answer["notes"] if "home" in note]
    assert ("HOME names" in note) is (isolation == "landlock")
    done = sessions.call("why", "--path", "~/.new", "--op", "write", *options, "--json", cwd=work)
    expected = "allowed" if isolation == "namespace" else "denied"
    assert json.loads(done.stdout)["status"] == expected
    assert homes(sessions) == []


def test_a_profile_says_which_home(sessions, own, work):
    own("p.toml", "filesystem = { home = 'kept=mine', allow = ['$WORKDIR'] }")
    assert sessions.run("-p", "p", "--", "sh", "-c", "echo x >~/x", cwd=work).returncode == 0
    assert sessions.run("-p", "p", "--home", "private", "--", "cat", "x", cwd=work).returncode == 1
    assert [name.partition(".")[0] for name in homes(sessions)] == ["mine"]
    path = own("bad.toml", "filesystem.home = 'keep'\nfilesystem.home_seed = ['/etc/x', '~/../x']")
    done = sessions.call("profile", "validate", str(path))
    assert done.stdout.count("bad.toml:2: filesystem.home_seed: expected a file of the home") == 2
    assert "bad.toml:1: filesystem.home: expected kept, kept=NAME, private or closed" in done.stdout


# -- seeds ----------------------------------------------------------------------------------------


def test_seeds_are_copied_once_and_said_and_secrets_are_not(sessions, own, work, tmp_path):
    home = sessions.home
    (tmp_path / "outside").write_text("outside")
    files = {
        ".plain": "plain", ".conf/deep": "deep", ".big": "x" * (1 << 20) + "x",
        ".token-file": "x", ".ssh/id": "key", ".npmish": "//r.example.com/:_authToken=abc",
    }  # fmt: skip
    for name, text in files.items():
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text(text)
    (home / ".inside").symlink_to(home / ".conf/deep")
    (home / ".out").symlink_to(tmp_path / "outside")
    (home / ".sly").symlink_to(home / ".ssh/id")
    os.mkfifo(home / ".pipe")
    seeds = [".plain", ".inside", ".none", ".big", ".token-file", ".ssh/id", ".npmish", ".out",
             ".sly", ".pipe", ".conf"]  # fmt: skip
    listing = ", ".join(f"'~/{name}'" for name in seeds)
    own(
        "p.toml", f"filesystem = {{ home = 'kept', allow = ['$WORKDIR'], home_seed = [{listing}] }}"
    )
    options = ["-p", "p", "--isolation", "namespace"]
    find = "cd; find . -type f | sort; cat .plain .inside; echo changed >.plain"
    done = sessions.run(*options, "--", "sh", "-c", find, cwd=work)
    assert done.stdout == "./.inside\n./.plain\nplaindeep", done.stderr
    assert f"is new: copying {home}/.plain into it (5 bytes)" in done.stderr
    for name, why in {
        ".out": f"a link leads out of the home to {tmp_path}/outside",
        ".sly": f"{home}/.ssh is protected",
        ".ssh/id": f"{home}/.ssh is protected",
        ".big": "it is larger than",
        ".token-file": "it looks as if it held a secret",
        ".npmish": "it looks as if it held a secret",
        ".pipe": "it is no file",
        ".conf": "Is a directory",
    }.items():
        assert f"p.toml:1: filesystem.home_seed: {home}/{name} is not copied: {why}" in done.stderr
    assert ".none" not in done.stderr
    done = sessions.run(*options, "--", "sh", "-c", "cat ~/.plain", cwd=work)
    assert (done.stdout, "copying" in done.stderr) == ("changed\n", False)
    assert (home / ".plain").read_text() == "plain"
    assert listed(sessions)[0]["seeded"] == [".plain", ".inside"]


@pytest.mark.parametrize(
    ("name", "text", "secret"),
    [
        ("settings.json", '{"theme": "dark", "model": "large"}', False),
        ("config.toml", "model = 'x'\n[tokens]\nmax = 20000\n", False),
        ("settings.json", '{"env": {"X_API_KEY": "abcdefgh12345678"}}', True),
        ("gitconfig", '[url "https://me:pass@git.example.com/"]', True),
        ("any", "-----BEGIN OPENSSH PRIVATE KEY-----", True),
        ("auth.json", "{}", True),
        ("notes.md", "ghp_abcdefghij0123456789", True),
    ],
)
def test_what_looks_like_a_secret(name, text, secret):
    assert looks_secret(name, text.encode()) is secret


# -- a hostile command ----------------------------------------------------------------------------

_TRAPS = """
cd; mkdir -p deep/er locked; touch locked/x; chmod 0 locked
ln -s {outside} a; ln -s {outside}/victim .gitconfig; ln -s ../../.. up
touch "$(printf 'evil\\033[2J\\nname')"; mkdir -p x/y; touch x/y/z
chmod 0 deep/er deep; chmod 0 . 2>/dev/null; true
"""


def test_nothing_in_a_hostile_home_leads_our_commands_anywhere(sessions, work, isolation, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("victim")
    options = ["--isolation", isolation, "--home", "kept=h"]
    assert shell(sessions, work, options, _TRAPS.format(outside=outside)).returncode == 0
    done = sessions.call("home", "list")
    assert done.stdout.splitlines()[1].split()[0] == f"h.{isolation}", done.stderr
    assert "\x1b" not in done.stdout
    # Places of grants where the links are: made beside them, and never through them.
    tools = sessions.home / "a" / "tools"
    tools.mkdir(parents=True)
    (sessions.home / ".gitconfig").write_text("config")
    grants = ["--read", str(tools), "--read-file", str(sessions.home / ".gitconfig")]
    done = shell(sessions, work, [*options, *grants], "cat ~/.gitconfig; ls -A ~/a; ls ~/x/y")
    assert done.stdout == "configtools\nz\n", done.stderr
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "victim"}
    done = sessions.call("home", "remove", "h")
    assert (done.returncode, homes(sessions)) == (0, []), done.stderr
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "victim"}
    assert sorted(path.name for path in sessions.home.iterdir() if path.name != ".local") == [
        ".gitconfig", ".toolrc", "a", "work",
    ]  # fmt: skip


def test_a_private_home_with_hostile_names_is_told_harmlessly(sessions, work, isolation):
    script = _TRAPS.format(outside="/etc")
    done = shell(sessions, work, ["--isolation", isolation], script)
    assert done.returncode == 0
    assert "\x1b" not in done.stderr
    assert all(line.startswith("nono-trio: ") for line in done.stderr.splitlines())


def test_what_is_none_of_ours_is_no_home(sessions, work, tmp_path):
    root = sessions.home / ".local/share/nono-trio/homes"
    assert shell(sessions, work, ["--home", "kept=real"], "echo x >~/x").returncode == 0
    victim = tmp_path / "victim"
    (victim / "home").mkdir(parents=True)
    (victim / "lock").touch()
    (root / "sly.namespace").symlink_to(victim)
    (root / "file.namespace").write_text("x")
    (root / "evil\x1b[2J.namespace").mkdir()
    (root / ".new-0123").mkdir()
    assert homes(sessions) == ["real.namespace"]
    for name in ("sly.namespace", "evil\x1b[2J", "../homes", ".new-0123"):
        done = sessions.call("home", "remove", name)
        assert done.returncode == 2, (name, done.stderr)
        assert "\x1b" not in done.stderr
    done = shell(sessions, work, ["--home", "kept=sly"], "echo x >~/x")
    assert done.returncode == 126
    assert sorted(path.name for path in victim.rglob("*")) == ["home", "lock"]
    # Facts that are not ours make no difference but that they are not shown.
    (root / "real.namespace/home.json").write_bytes(b"\xff{")
    assert listed(sessions)[0]["profile"] is None
    assert shell(sessions, work, ["--home", "kept=real"], "cat ~/x").stdout == "x\n"


@pytest.mark.parametrize("words", [("list",), ("remove", "mine")])
def test_homes_that_can_not_be_read_are_no_error_of_a_cage(run, tmp_path, monkeypatch, words):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    (tmp_path / "nono-trio").mkdir()
    (tmp_path / "nono-trio" / "homes").touch()
    code, _, err = run("home", *words)
    assert (code, "Not a directory" in err) == (1, True)
    assert f"hint: look at it: ls -ld {tmp_path}/nono-trio/homes" in err


def test_the_homes_of_others_can_not_be_granted(sessions, work, isolation):
    root = sessions.home / ".local/share/nono-trio/homes"
    share = root.parents[1]
    share.mkdir(parents=True)
    create = sessions.run("--isolation", isolation, "--allow", str(share), "--", "true", cwd=work)
    assert create.returncode == 2
    assert shell(sessions, work, ["--home", "kept=other"], "echo secret >~/x").returncode == 0
    for flag, path in (("--read", root), ("--allow", root / "other.namespace/home")):
        done = sessions.run("--isolation", isolation, flag, str(path), "--", "true", cwd=work)
        assert (done.returncode, "the homes of other cages" in done.stderr) == (2, True)
    done = sessions.run("--bypass-protection", str(root), "--", "true", cwd=work)
    assert (done.returncode, "stay closed" in done.stderr) == (2, True)
    around = ["--isolation", isolation, "--read", str(share), "--", "ls", str(root)]
    done = sessions.run(*around, cwd=work)
    assert "other" not in done.stdout  # covered; landlock can't close it and refuses
    assert "closed" in done.stderr or "would open the homes" in done.stderr or not done.stdout


def test_homes_that_are_made_later_are_not_seen_in_a_cage_around_them(sessions, work):
    share = sessions.home / ".local/share"
    share.mkdir(parents=True)
    script = f"echo up; read _; ls -R {share}"
    options = ["--isolation", "namespace", "--read", str(share)]
    with sessions.started("run", *options, "--", "sh", "-c", script, stdin=-1, cwd=work) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "up\n"
        assert shell(sessions, work, ["--home", "kept"], "echo x >~/x").returncode == 0
        said, _ = first.communicate("\n", timeout=60)
    assert said.split("\n\n")[-1].splitlines() == [f"{share}/nono-trio/homes:"]  # covered


def test_a_home_under_construction_is_not_taken_and_what_was_killed_is_cleaned(sessions, work):
    root = sessions.home / ".local/share/nono-trio/homes"
    root.mkdir(parents=True, mode=0o700)
    old, bare, young, gone, empty, at_work = (
        root / name
        for name in (".new-old", ".new-bare", ".new-young", ".gone-x", ".gone-empty", ".gone-held")
    )
    for directory in (old, young, gone, at_work):
        (directory / "home" / "deep").mkdir(parents=True)
        (directory / "home" / "deep" / "login").write_text("secret")
    bare.mkdir()
    empty.mkdir()
    for directory in (old, bare):
        os.utime(directory, (0, 0))
    with (at_work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert shell(sessions, work, ["--home", "kept=h"], "true").returncode == 0
        assert {path.name for path in root.iterdir()} == {
            "h.namespace", ".new-young", ".gone-held",
        }  # fmt: skip
    done = sessions.call("home", "remove", "h")  # this ends a killed removal too
    assert (done.returncode, done.stderr) == (0, "nono-trio: home h.namespace is removed\n")
    assert [path.name for path in root.iterdir()] == [".new-young"]


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_a_lock_that_is_no_file_is_named(sessions, work, kind):
    assert shell(sessions, work, ["--home", "kept=h"], "echo x >~/x").returncode == 0
    lock = entry(sessions, "h.namespace") / "lock"
    lock.unlink()
    {
        "pipe": lambda: os.mkfifo(lock),
        "link": lambda: lock.symlink_to("home"),
        "directory": lock.mkdir,
    }[kind]()
    assert [(home["name"], home["in_use"]) for home in listed(sessions)] == [("h.namespace", False)]
    done = shell(sessions, work, ["--home", "kept=h"], "true")
    assert (done.returncode, f"{lock} can't be used: " in done.stderr) == (126, True), done.stderr
    done = sessions.call("home", "remove", "h")
    assert (done.returncode, f"{lock} can't be used: " in done.stderr) == (1, True), done.stderr
    assert f"hint: look at it: ls -ld {lock}\n" in done.stderr


def test_a_home_whose_files_are_gone_is_listed_used_and_removed(sessions, work):
    for after in ("use", "removal"):
        assert shell(sessions, work, ["--home", "kept=h"], "echo x >~/x").returncode == 0
        shutil.rmtree(entry(sessions, "h.namespace") / "home")
        assert [(home["name"], home["files"]) for home in listed(sessions)] == [("h.namespace", 0)]
        if after == "use":
            done = shell(sessions, work, ["--home", "kept=h"], "ls -A ~; echo y >~/y; cat ~/y")
            assert (done.returncode, done.stdout) == (0, "work\ny\n"), done.stderr
    done = sessions.call("home", "remove", "h")
    assert (done.returncode, homes(sessions)) == (0, []), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user: only root meets another's home")
def test_root_makes_no_home_of_its_own_among_another_users(sessions, work):
    os.chown(sessions.home, 65534, 65534)
    done = shell(sessions, work, ["--home", "kept"], "true")
    assert done.returncode == 2
    assert "sudo -H" in done.stderr
    assert not (sessions.home / ".local/share").exists()


def test_a_private_home_has_a_size(sessions, work):
    script = "df -k --output=size ~ | tail -1; grep MemTotal /proc/meminfo"
    done = shell(sessions, work, ["--isolation", "namespace"], script)
    size, _, total, _ = done.stdout.split()
    assert 0 < int(size) <= int(total) / 3


def test_remove_says_what_there_is(sessions, work):
    done = sessions.call("home", "remove", "none")
    assert (done.returncode, "hint: see `nono-trio home list`" in done.stderr) == (2, True)
    assert json.loads(sessions.call("home", "list", "--json").stdout)["homes"] == []
    assert shell(sessions, work, ["--home", "kept=h"], "true").returncode == 0
    shutil.copytree(entry(sessions, "h.namespace"), entry(sessions, "h.landlock"))
    done = sessions.call("home", "remove", "h")
    assert (done.returncode, "h.landlock, h.namespace" in done.stderr) == (2, True)
    done = sessions.call("home", "remove", "h.landlock", "--json")
    assert json.loads(done.stdout) == {"schema": 1, "removed": "h.landlock"}
    assert homes(sessions) == ["h.namespace"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another user")
def test_what_another_user_left_keeps_nobody_from_a_home(sessions, work):
    root = sessions.home / ".local/share/nono-trio/homes"
    (root / ".gone-x").mkdir(parents=True, mode=0o700)
    os.chown(root / ".gone-x", 65534, 65534)
    assert shell(sessions, work, ["--home", "kept=h"], "true").returncode == 0
    assert sessions.call("home", "remove", "h").returncode == 0
    assert [path.name for path in root.iterdir()] == [".gone-x"]
