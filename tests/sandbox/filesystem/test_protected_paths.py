"""A grant opens only the requested path, in spite of files that an earlier command left."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import NONO_TRIO, RUN_SECONDS, Sessions, landlock_isolation

from nono_trio.audit.store import state_root
from nono_trio.config.options import AuditOptions, NetworkOptions, RunOptions, SessionOptions
from nono_trio.sandbox.filesystem import mount_table
from nono_trio.sandbox.filesystem.mount_table import Mount, MountTable
from nono_trio.sandbox.filesystem.plan import FileOptions
from nono_trio.sandbox.launcher.symlinks import follow
from nono_trio.sandbox.spawn import LaunchFailed, NamespacesRefused, await_ready, spawn
from nono_trio.session.prepare import prepare_run

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
both_isolations = pytest.mark.parametrize("isolation", BOTH)
needs_mounts = pytest.mark.skipif(
    shutil.which("unshare") is None, reason="unshare(1) is not installed"
)


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    """Outside of /tmp: the cage's private /tmp would hide the files anyway."""
    base = Path(tempfile.mkdtemp(prefix="nono-trio-grants-", dir="/var/tmp"))
    try:
        (base / "home").mkdir()
        yield Sessions(base / "state", base / "home")
    finally:
        shutil.rmtree(base)


@pytest.fixture
def work(sessions: Sessions) -> Path:
    """A project of the user's, in which commands work."""
    directory = sessions.home / "project"
    directory.mkdir()
    return directory


def grants_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The access to each path that `--dry-run --json` tells."""
    return {grant["path"]: grant["access"] for grant in json.loads(done.stdout)["grants"]}


# -- what every cage has --------------------------------------------------------------------------


@both_isolations
def test_nobody_is_given_writing_who_did_not_ask(
    sessions: Sessions, work: Path, isolation: str
) -> None:
    """Logs are kept elsewhere today, and the temporary directory is a place of secrets."""
    usual = sessions.home / ".local/state/nono-trio/audit"
    for directory in (usual, sessions.home / ".ssh"):
        directory.mkdir(parents=True)
    (usual / "ledger.ndjson").write_text("earlier\n")
    sessions.variables = {
        "XDG_STATE_HOME": str(sessions.home / "elsewhere"),
        "TMPDIR": str(sessions.home / ".ssh"),
    }
    script = """
    { echo more >>"$1/.local/state/nono-trio/audit/ledger.ndjson"; } 2>/dev/null
    mv "$1/.local/state/nono-trio" "$1/.local/state/moved" 2>/dev/null
    { echo key >"$1/.ssh/authorized_keys"; } 2>/dev/null
    file=$(mktemp) && echo there >"$file" && cat "$file"
    """
    home = str(sessions.home)
    done = sessions.run("--isolation", isolation, "--", "sh", "-c", script, "sh", home, cwd=work)
    assert (done.stdout, done.returncode) == ("there\n", 0), done.stderr
    assert (usual / "ledger.ndjson").read_text() == "earlier\n"
    assert os.listdir(sessions.home / ".ssh") == []


@both_isolations
def test_what_may_be_written_without_asking(sessions: Sessions, isolation: str) -> None:
    (sessions.home / ".local/state").mkdir(parents=True)
    done = sessions.run("--dry-run", "--json", "--isolation", isolation, "--", "true")
    writable = {path for path, access in grants_of(done).items() if access != "read"}
    assert writable == {"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"}
    assert "/dev/console" not in grants_of(done)


@pytest.mark.parametrize("closed", ["/etc/ssl", "/etc/ssl/certs", "/usr/share"])
def test_a_closed_path_is_closed_in_what_every_cage_reads(
    sessions: Sessions, work: Path, closed: str
) -> None:
    names = [name for name in os.listdir(closed) if (Path(closed) / name).exists()]
    if not names:
        pytest.skip(f"{closed} is empty on this machine")
    profile = sessions.home / "profile.toml"
    profile.write_text(f'[filesystem]\ndeny = ["{closed}"]\n')
    options = ["--isolation", "namespace", "--profile", str(profile)]
    script = f"ls {closed}; ls {closed}/{names[0]} && echo found"
    done = sessions.run(*options, "--", "sh", "-c", script, cwd=work)
    assert done.stdout == "", done.stderr
    answer = sessions.call("why", "--json", "--path", closed, *options, cwd=work)
    assert json.loads(answer.stdout)["status"] == "denied"


@landlock_isolation
def test_landlock_closes_a_whole_grant_or_refuses(sessions: Sessions, work: Path) -> None:
    profile = sessions.home / "profile.toml"
    run = ["--isolation", "landlock", "--profile", str(profile), "--"]
    profile.write_text('[filesystem]\ndeny = ["/usr/share"]\n')
    refused = sessions.run(*run, "true", cwd=work)
    assert refused.returncode == 2
    assert "/usr/share is closed, but lies in /usr, which every cage may read" in refused.stderr
    assert "--isolation namespace" in refused.stderr
    profile.write_text('[filesystem]\ndeny = ["/etc/ssl"]\n')
    done = sessions.run(*run, "ls", "/etc/ssl", cwd=work)
    assert done.returncode == 2  # of ls
    assert "/etc/ssl, which every cage may read, left out: /etc/ssl is closed" in done.stderr


# -- a place by another name ----------------------------------------------------------------------


def mounted(sessions: Sessions, mounts: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run nono-trio where more is mounted."""
    script = f'{mounts} || exit 99\nexec "$@"'
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", NONO_TRIO, *command],
        env=sessions.environment, cwd=sessions.home, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@needs_mounts
@both_isolations
@pytest.mark.parametrize("bound", ["state/audit", "state", ""])
def test_a_bind_mount_is_no_way_to_the_state(
    sessions: Sessions, work: Path, bound: str, isolation: str
) -> None:
    """The state itself, a part of it, and what is around it; also below the granted directory."""
    (sessions.state / "audit").mkdir(parents=True)
    inner = work / "inner"
    inner.mkdir()
    mounts = f"mount --rbind '{sessions.state.parent / bound}' '{inner}'"
    for granted in (work, inner):
        options = ["run", "--isolation", isolation, "--allow", str(granted), "--"]
        script = f"find '{work}' -name audit-events.ndjson | head -1"
        done = mounted(sessions, mounts, *options, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "covers the audit state directory" in done.stderr


@needs_mounts
def test_a_closed_path_is_closed_by_its_second_name(sessions: Sessions, work: Path) -> None:
    (sessions.home / ".ssh").mkdir()
    (sessions.home / ".ssh" / "id").write_text("secret\n")
    mounts = f"mount --bind '{sessions.home}' '{work}'"
    read = ["--isolation", "namespace", "--read"]
    at_it = mounted(sessions, mounts, "run", *read, f"{work}/.ssh", "--", "cat", f"{work}/.ssh/id")
    assert (at_it.returncode, at_it.stdout) == (2, "")
    assert f"--bypass-protection {sessions.home}/.ssh" in at_it.stderr
    around = mounted(sessions, mounts, "run", *read, str(work), "--", "cat", f"{work}/.ssh/id")
    assert (around.returncode, around.stdout) == (1, "")


def test_the_names_that_a_mount_table_gives(tmp_path: Path) -> None:
    """Only what leads to the same directory counts; the table is written as the kernel does."""
    (tmp_path / "a b" / "c" / "d").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("second", "part", "hidden"):
        os.symlink(tmp_path / "a b" / "c" if name != "hidden" else tmp_path / "other",
                   tmp_path / name)  # fmt: skip
    table = tmp_path / "mountinfo"
    rows = [("/", "/"), ("/a b", "second"), ("/a b/c", "part"), ("/a b/c", "hidden")]
    table.write_text("".join(
        f"{number} 1 8:1 {root} {tmp_path if point == '/' else tmp_path / point} rw - ext4 x rw\n"
        .replace("/a b", "/a\\040b")
        for number, (root, point) in enumerate(rows)
    ))  # fmt: skip
    names = MountTable.read(str(table)).names(f"{tmp_path}/a b/c/d")
    assert names == (f"{tmp_path}/a b/c/d", f"{tmp_path}/part/d")
    assert MountTable.read(str(table)).names(f"{tmp_path}/a b") == (
        f"{tmp_path}/a b", f"{tmp_path}/part",
    )  # fmt: skip
    assert MountTable.read(str(tmp_path / "missing")).names("/x") == ("/x",)
    assert mount_table.MOUNTS.startswith("/proc/")
    assert MountTable([Mount("8:1", "/", "/")]).names("/etc") == ("/etc",)


# -- symlinks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isolation", "options", "follow_up"),
    [
        ("namespace", ["--allow", "dist"], ["--allow", "{real}"]),
        ("landlock", ["--allow", "dist"], ["--allow", "{real}"]),
        ("namespace", ["--read", "dist/sub"], ["--read", "{real}/sub"]),
        ("landlock", ["--allow-file", "dist/file"], ["--allow-file", "{real}/file"]),
        ("namespace", ["--workdir", "dist", "--allow-cwd"], ["--allow", "{real}"]),
        ("landlock", ["--allow-cwd", "--write", "dist"], ["--write", "{real}"]),
    ],
)
def test_a_link_that_an_earlier_command_made_is_not_followed(
    sessions: Sessions, work: Path, isolation: str, options: list[str], follow_up: list[str]
) -> None:
    other = sessions.home / "other"
    (other / "sub").mkdir(parents=True)
    (other / "file").write_text("untouched")
    (work / "dist").symlink_to(other)
    here = ["--isolation", isolation]
    script = "echo x >dist/file; cat dist/file"
    done = sessions.run(*here, *options, "--", "sh", "-c", script, cwd=work)
    assert (done.returncode, done.stdout) == (2, "")
    words = [word.format(real=other) for word in follow_up]
    assert f"{work}/dist out of its directory" in done.stderr
    assert f"name it: {' '.join(words)}" in done.stderr
    assert sessions.run("--dry-run", *here, *words, "--", "true", cwd=work).returncode == 0
    assert (other / "file").read_text() == "untouched"


def test_a_link_does_not_lift_a_protection(sessions: Sessions, work: Path) -> None:
    (sessions.home / ".ssh").mkdir()
    (work / "cache").symlink_to(sessions.home / ".ssh")
    done = sessions.run(
        "--read", str(sessions.home), "--bypass-protection", "cache", "--", "true", cwd=work
    )
    assert done.returncode == 2
    assert f"name it: --bypass-protection {sessions.home}/.ssh" in done.stderr


def test_other_links_are_followed_and_shown(sessions: Sessions, work: Path) -> None:
    """Links that stay inside, and links where no command works."""
    (work / "real").mkdir()
    (work / "real" / "file").write_text("found\n")
    (work / "inside").symlink_to("real")
    (sessions.home / "link").symlink_to(work)
    granted = ["--allow", "inside", "--read", f"{sessions.home}/link"]
    done = sessions.run(*granted, "--", "cat", f"{sessions.home}/link/inside/file", cwd=work)
    assert (done.stdout, done.returncode) == ("found\n", 0), done.stderr
    assert f"warning: --allow {work}/inside leads to {work}/real" in done.stderr
    shown = sessions.run("--dry-run", *granted, "--", "true", cwd=work).stdout
    assert f"{work}/inside -> {work}/real  (--allow)" in shown
    assert f"{sessions.home}/link -> {work}  (--read)" in shown
    why = sessions.call("why", "--path", "inside/file", *granted, cwd=work)
    assert f"below {work}/inside, which leads to {work}/real" in why.stdout


def test_a_parent_behind_a_link_is_not_guessed(sessions: Sessions, tmp_path: Path) -> None:
    """`link/..` reads as the link's directory; to the system it is the one above its target."""
    for name in ("here", "there/inner", "there/wanted"):
        (tmp_path / name).mkdir(parents=True)
    link = tmp_path / "here" / "link"
    link.symlink_to("../there/inner")
    for arguments in (
        ["run", "--allow", f"{link}/../wanted", "--", "true"],
        ["run", "--allow", str(tmp_path), "--bypass-protection", f"{link}/../x", "--", "true"],
        ["why", "--path", f"{link}/../wanted"],
    ):
        done = sessions.call(*arguments)
        assert done.returncode == 2
        assert f"the .. behind the symlink {link} can be read in two ways" in done.stderr
    (written,) = re.findall(r"hint: write where it leads: (.*)", done.stderr)
    for path in (written, f"{tmp_path}/there/inner/../wanted"):
        done = sessions.run("--allow", path, "--", "touch", f"{written}/made")
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "isolation", ["namespace", pytest.param("landlock", marks=landlock_isolation)]
)
def test_what_each_process_has_of_its_own_is_no_grant(
    sessions: Sessions, tmp_path: Path, isolation: str
) -> None:
    """As /etc/mtab does on many machines; it was followed to the supervisor's own number."""
    link = tmp_path / "mtab"
    link.symlink_to("/proc/self/mounts")
    done = sessions.run("--isolation", isolation, "--read-file", str(link), "--", "true")
    assert done.returncode == 2
    assert "it leads to what each process has of its own in /proc" in done.stderr
    read = sessions.run("--isolation", isolation, "--", "head", "-c", "1", "/proc/self/mounts")
    assert read.returncode == 0, read.stderr
    if isolation == "namespace":
        why = sessions.call("why", "--path", str(link))
        assert f"the symlink {link} is not in the cage" in why.stdout


def test_a_link_on_the_way_to_what_is_obeyed_can_not_be_replaced(
    sessions: Sessions, work: Path
) -> None:
    (sessions.home / ".config").mkdir()
    (work / "dotfiles").mkdir()
    (sessions.home / ".config/nono-trio").symlink_to(work / "dotfiles")
    done = sessions.run("--allow", f"{sessions.home}/.config", "--", "true", cwd=work)
    assert done.returncode == 2
    assert f"replace the symlink {sessions.home}/.config/nono-trio" in done.stderr


def test_links_are_followed_as_the_system_does(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    links = {"up": "a/b/..", "chain": "up/b", "loop": "loop", "gone": "no/such"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    for name in ("up", "chain", "chain/../b", "loop", "loop/x", "gone", "gone/x", "a/../chain"):
        assert follow(f"{tmp_path}/{name}").real == os.path.realpath(tmp_path / name), name
    assert follow(f"{tmp_path}/chain").links == (f"{tmp_path}/chain", f"{tmp_path}/up")
    assert follow("/").real == "/"


@both_isolations
def test_what_takes_a_grants_place_is_not_granted(
    sessions: Sessions, work: Path, isolation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the plan and the cage, a command that runs beside it replaces the directory."""
    for variable, value in sessions.environment.items():
        monkeypatch.setenv(variable, value)
    granted, other = work / "granted", work / "other"
    granted.mkdir()
    other.mkdir()
    options = RunOptions(
        command=("true",),
        session=SessionOptions(NetworkOptions(), AuditOptions(state_root(None, os.environ))),
        files=FileOptions(allow=[str(granted)], workdir=str(work)),
        isolation=isolation,  # type: ignore[arg-type]
        environment=sessions.environment,
    )
    prepared = prepare_run(options)
    granted.rename(work / "moved")
    other.rename(granted)
    launched = spawn(prepared.plan)
    try:
        with pytest.raises(LaunchFailed, match=f"{granted} is not what it was") as caught:
            await_ready(launched)
    finally:
        launched.abandon()
        prepared.resources.close()
    assert not isinstance(caught.value, NamespacesRefused), "auto would fall back to landlock"


# -- the cage's own file systems ------------------------------------------------------------------


def test_private_directories_have_a_size(sessions: Sessions) -> None:
    run = ["--isolation", "namespace", "--memory", "64M"]
    shown = json.loads(sessions.run("--dry-run", "--json", *run, "--", "true").stdout)["private"]
    assert {one["path"]: one["bytes"] for one in shown} == {"/tmp": 32 << 20, "/dev/shm": 16 << 20}
    script = """
    head -c 17m /dev/zero 2>/dev/null >/dev/shm/large || echo full
    wc -c </dev/shm/large
    """
    done = sessions.run(*run, "--", "sh", "-c", script.replace("17m", str(17 << 20)))
    assert done.stdout.split() == ["full", str(16 << 20)], done.stderr
    default = json.loads(sessions.run("--dry-run", "--json", "--", "true").stdout)["private"]
    assert sum(one["bytes"] for one in default) <= memory_of_this_machine() * 3 // 4


def memory_of_this_machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
