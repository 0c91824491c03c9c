"""A command can't change files that a later run executes or obeys."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from harness import RUN_SECONDS, guarded
from installation import PACKAGE, install

from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem import code_places, own_code
from nono_trio.sandbox.filesystem.code_places import CodePlace
from nono_trio.sandbox.filesystem.grant import Grant


def grant(path, access="readwrite"):
    return Grant(str(path), access, False, "--allow", asked_for=True)


# -- our own code ---------------------------------------------------------------------------------


def test_our_package_and_the_interpreter_are_among_it():
    places = code_places.code_places()
    for needed in (str(PACKAGE), os.path.realpath(sys.executable), os.__file__):
        real = os.path.realpath(needed)
        assert any(place.kind == "whole" and place.refuses(real) for place in places)
    for absent in ("sitecustomize.py", "nt.py"):  # beside the package of an editable checkout
        assert any(place.refuses(str(PACKAGE.parent / absent)) for place in places)
    assert not any(place.refuses(str(PACKAGE.parent / "docs")) for place in places)
    library = os.path.dirname(os.path.dirname(os.path.realpath(os.__file__)))
    for directory in (library, os.path.dirname(os.path.realpath(sys.executable))):
        assert any(place.refuses(directory) for place in places)


def test_code_that_the_settings_of_the_keyring_name_is_among_it(tmp_path, monkeypatch):
    code = tmp_path / "code"
    settings = tmp_path / "settings" / "python_keyring"
    for one in (code, settings):
        one.mkdir(parents=True)
    (settings / "keyringrc.cfg").write_text(f"[backend]\nkeyring-path = {code}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert CodePlace(str(code), "whole") in code_places.code_places()


def test_what_a_link_leads_to_is_decided_by_who_can_replace_the_link(tmp_path):
    (tmp_path / "real" / "code").mkdir(parents=True)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one").symlink_to("../real")
    (tmp_path / "two").symlink_to("links/one")
    found = [place.path for place in code_places.names_on_the_way(f"{tmp_path}/two/code/absent")]
    assert found[-2:] == [str(tmp_path), f"{tmp_path}/links"]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A directory to grant with our code inside it."""
    (tmp_path / "tree" / "ours").mkdir(parents=True)
    places = [CodePlace(str(tmp_path / "tree" / "ours"), "whole")]
    monkeypatch.setattr(own_code, "code_places", lambda: places)
    return tmp_path / "tree"


def test_it_is_kept_inside_a_grant_for_writing_only(tree):
    ours = str(tree / "ours")
    assert [*own_code.kept_paths([grant(tree)], (), can_cover=True)] == [ours]
    assert own_code.kept_paths([grant(tree, "read")], (), can_cover=False) == {}
    assert own_code.kept_paths([grant(tree)], [ours], can_cover=False) == {}
    assert own_code.kept_paths([grant(tree / "other")], (), can_cover=False) == {}


@pytest.mark.parametrize(
    ("below", "can_cover", "text"),
    [
        ("", False, "write {ours}, which is nono-trio's own code"),
        ("ours", True, "write {ours}, which is nono-trio's own code"),
        ("ours/lib", True, "write {ours}, which is nono-trio's own code"),
    ],
)
def test_a_grant_that_would_open_it_is_refused(tree, below, can_cover, text):
    with pytest.raises(UsageError) as caught:
        own_code.kept_paths([grant(tree / below)], (), can_cover=can_cover)
    assert text.format(ours=tree / "ours") in caught.value.message
    assert f"--bypass-protection {tree / 'ours'}" in (caught.value.hint or "")
    assert "pipx install nono-trio" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "below", "refused"),
    [
        ("names", "", True),
        ("names", "json", False),
        ("searched", "", True),
        ("searched", "src", False),
        ("searched", "json", False),  # the standard library has one, and comes first
        ("searched", "winreg", True),
        ("searched", "sitecustomize.py", True),
        ("searched", "__pycache__", True),
        ("searched", "click/x", True),
    ],
)
def test_a_directory_whose_names_must_not_change(monkeypatch, tmp_path, kind, below, refused):
    monkeypatch.setattr(own_code, "code_places", lambda: [CodePlace(str(tmp_path), kind)])
    grants = [grant(tmp_path / below)]
    if refused:
        with pytest.raises(UsageError, match=r"let the command create files in .*Python imports"):
            own_code.kept_paths(grants, (), can_cover=True)
    else:
        assert own_code.kept_paths(grants, (), can_cover=True) == {}


def test_code_that_is_not_there_yet_keeps_its_directory(tmp_path):
    assert code_places.absent(f"{tmp_path}/lib/python3.11/x.py").path == str(tmp_path)
    (tmp_path / "lib").mkdir()
    assert code_places.absent(f"{tmp_path}/lib/python3.11/x.py").path == f"{tmp_path}/lib"


def call(command, sessions, *arguments, **settings):
    settings.setdefault("cwd", sessions.home)
    return subprocess.run(
        [str(command), *arguments], env=sessions.environment, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False, **settings,
    )  # fmt: skip


def test_the_command_can_neither_change_nor_replace_it(sessions, tmp_path):
    """An environment with ours inside the grant, two directories deep, and a command that wants it.

    Its interpreter, its pyvenv.cfg and what Python looks for at its start are part of it.
    """
    environment = tmp_path / "granted" / "some" / "venv"
    command = install(environment)
    (package,) = environment.glob("lib/python*/site-packages/nono_trio")
    script = f"""
    cat {package}/py.typed && echo read
    echo x 2>/dev/null >{package}/x || echo refused
    echo x 2>/dev/null >{package.parent}/sitecustomize.py || echo refused
    echo x 2>/dev/null >{environment}/pyvenv.cfg || echo refused
    rm {environment}/bin/python 2>/dev/null || echo refused
    mv {package} {package.parent}/moved 2>/dev/null || echo refused
    mv {environment} {environment}2 2>/dev/null || echo refused
    mv {environment.parent} {environment.parent}2 2>/dev/null || echo refused
    echo x >{environment.parent}/beside && echo written
    """
    granted = ["--allow", str(tmp_path / "granted"), "--", "sh", "-c", script]
    done = call(command, sessions, "run", "--isolation", "namespace", *granted)
    assert done.stdout.split() == ["read", *["refused"] * 7, "written"], done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "nono-trio's own code" in line)
    assert f"warning: {environment}: nono-trio's own code, which stays read-only" in line
    assert "pipx install nono-trio, or uv tool install nono-trio" in line
    assert (environment.parent / "beside").exists()


@pytest.mark.parametrize("isolation", ["namespace", pytest.param("landlock", marks=guarded)])
def test_a_checkout_that_it_is_run_from_can_not_be_granted(sessions, tmp_path, isolation):
    """An editable install: modules planted beside the package are found by every interpreter."""
    checkout = tmp_path / "projects" / "checkout"
    command = install(tmp_path / "venv", editable=checkout)
    run = ["run", "--isolation", isolation]
    refused = call(command, sessions, *run, "--allow-cwd", "--", "true", cwd=checkout)
    assert refused.returncode == 2
    assert f"--allow-cwd {checkout} would let the command" in refused.stderr
    assert "hint: install nono-trio outside of it: pipx" in refused.stderr
    plant = f"for n in nt sitecustomize; do echo x >{checkout}/$n.py; done; echo x >{checkout}.py"
    granted = ["--allow", str(checkout.parent), "--", "sh", "-c", plant]
    done = call(command, sessions, *run, *granted)
    assert done.returncode == (2 if isolation == "landlock" else 0)
    assert [*checkout.iterdir()] == [checkout / "nono_trio"]
    assert checkout.with_suffix(".py").exists() is (isolation == "namespace")
    inside = checkout / "build"
    inside.mkdir()
    allowed = call(command, sessions, *run, "--allow", str(inside), "--", "touch", f"{inside}/x")
    assert (allowed.returncode, (inside / "x").exists()) == (0, True), allowed.stderr


# -- profiles, registries, programs ---------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["namespace", "landlock"])
def test_profiles_that_are_not_there_yet_can_not_be_made(sessions, isolation):
    config = sessions.home / ".config"
    config.mkdir()
    command = ["--isolation", isolation, "--allow", str(config), "--", "true"]
    done = sessions.run(*command)
    assert done.returncode == 2
    assert "nono-trio" in done.stderr
    assert "--bypass-protection" in done.stderr


@pytest.mark.parametrize(
    ("obeyed", "other"), [("nono-trio", "python_keyring"), ("python_keyring", "nono-trio")]
)
def test_what_lifts_the_refusal(sessions, obeyed, other):
    config = sessions.home / ".config"
    (config / other).mkdir(parents=True)
    made = f"mkdir {config}/{obeyed} 2>/dev/null && echo made"
    command = ["--isolation", "namespace", "--allow", str(config), "--", "sh", "-c", made]
    done = sessions.run(*command)
    assert f"would let the command create {config}/{obeyed}" in done.stderr
    lifted = sessions.run("--bypass-protection", f"{config}/{obeyed}", *command)
    assert (lifted.returncode, lifted.stdout) == (0, "made\n")
    assert sessions.run(*command).stdout == ""  # it is there now, and covered


@pytest.mark.parametrize(
    ("granted", "warned"),
    [(".cargo", ".cargo/config.toml"), (".config", ".config/pip/pip.conf"), ("work", None)],
)
def test_registries_that_a_later_run_would_believe(sessions, granted, warned):
    work = sessions.home / "work"
    for path in (work, sessions.home / ".config" / "nono-trio", sessions.home / ".cargo"):
        path.mkdir(parents=True)
    (sessions.home / ".config" / "python_keyring").mkdir()
    sessions.variables = {"VIRTUAL_ENV": str(work / ".venv")}
    done = sessions.run("--dry-run", "-a", str(sessions.home / granted), "--", "true", cwd=work)
    assert done.returncode == 0, done.stderr
    assert (f"{sessions.home}/{warned}" in done.stderr) is (warned is not None)
    assert ("a later run with package_registries" in done.stderr) is (warned is not None)


def test_programs_that_would_be_run_outside_of_a_cage(monkeypatch, tmp_path):
    for name in ("bin", "project/bin"):
        (tmp_path / name).mkdir(parents=True)
    path = f"{tmp_path}/bin:{tmp_path}/project/bin:{tmp_path}/missing::relative"
    monkeypatch.setenv("PATH", path)
    work = str(tmp_path / "project")
    (warning,) = own_code.search_path_warnings([grant(tmp_path)], work, ())
    assert f"--allow {tmp_path} lets the command change the programs in {tmp_path}/bin" in warning
    assert not [*own_code.search_path_warnings([grant(tmp_path, "read")], work, ())]
    assert not [*own_code.search_path_warnings([grant(tmp_path)], str(tmp_path), ())]
    assert not [*own_code.search_path_warnings([grant(tmp_path)], work, [f"{tmp_path}/bin"])]


# -- caches of installers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cache", "variables"),
    [
        (".cache/uv", {}),
        ("own/uv", {"UV_CACHE_DIR": "{home}/own/uv"}),
        (".cache/pip", {}),
        ("own/pip", {"PIP_CACHE_DIR": "{home}/own/pip"}),
        ("miniconda3/pkgs", {}),
        ("own/pkgs", {"CONDA_PKGS_DIRS": "{home}/own/pkgs,/nowhere"}),
        (".local/share/pnpm", {}),
        ("xdg/pnpm", {"XDG_DATA_HOME": "{home}/xdg"}),
        (".pnpm-store", {}),
    ],
)
def test_caches_that_programs_are_installed_from(sessions, cache, variables):
    path = sessions.home / cache
    path.mkdir(parents=True)
    (path / "package.py").write_text("theirs")
    sessions.variables = {key: text.format(home=sessions.home) for key, text in variables.items()}
    refused = sessions.run("--dry-run", "--allow", str(path), "--", "true")
    assert refused.returncode == 2
    assert f"would let the command write {path}, from which" in refused.stderr
    assert "--home kept" in refused.stderr


def test_a_cache_inside_a_wider_grant(sessions):
    cache = sessions.home / ".cache" / "uv"
    cache.mkdir(parents=True)
    (cache / "package.py").write_text("theirs")
    wide = sessions.home / ".cache"
    for name in ("pip", "pnpm"):  # covered as well, where they are used
        (wide / name).mkdir()
    script = f"cat {cache}/package.py; echo x >{wide}/other; echo x >{cache}/package.py"
    command = ["--allow", str(wide), "--", "sh", "-c", script]
    done = sessions.run("--isolation", "namespace", *command)
    assert done.stdout == "theirs"
    assert "Read-only file system" in done.stderr
    assert f"{cache} stays read-only inside --allow {wide}: with --home kept" in done.stderr
    assert ((wide / "other").exists(), (cache / "package.py").read_text()) == (True, "theirs")


@guarded
def test_a_cache_inside_a_wider_grant_without_mounts(sessions):
    (sessions.home / "tree" / "uv").mkdir(parents=True)
    sessions.variables["UV_CACHE_DIR"] = f"{sessions.home}/tree/uv"
    command = ["--isolation", "landlock", "--allow", f"{sessions.home}/tree", "--", "true"]
    refused = sessions.run(*command)
    assert refused.returncode == 2
    assert "from which uv installs programs" in refused.stderr
    lifted = sessions.run("--bypass-protection", f"{sessions.home}/tree/uv", *command)
    assert lifted.returncode == 0, lifted.stderr


def test_a_cache_that_its_program_would_make_later(sessions):
    bin_directory = sessions.home / "bin"
    bin_directory.mkdir()
    (sessions.home / "tree").mkdir()
    sessions.variables["UV_CACHE_DIR"] = f"{sessions.home}/tree/uv"
    sessions.variables["PATH"] = "/usr/bin:/bin"
    command = ["--dry-run", "--allow", f"{sessions.home}/tree", "--", "true"]
    assert sessions.run(*command).returncode == 0
    (bin_directory / "uv").write_text("#!/bin/sh\n")
    (bin_directory / "uv").chmod(0o755)
    sessions.variables["PATH"] = f"{bin_directory}:/usr/bin:/bin"
    refused = sessions.run(*command)
    assert refused.returncode == 2
    assert f"hint: make it first (mkdir -p {sessions.home}/tree/uv)" in refused.stderr


def test_files_of_ours_with_a_second_name(sessions, tmp_path):
    command = install(tmp_path / "venv")
    (file,) = (tmp_path / "venv").glob("lib/python*/site-packages/nono_trio/errors.py")
    names = {False: "ok       own code", True: "missing  own code"}
    for linked in (False, True):
        if linked:
            (tmp_path / "cache.py").hardlink_to(file)
        (line,) = (
            line
            for line in call(command, sessions, "doctor").stdout.splitlines()
            if " own code " in line
        )
        assert line.startswith(names[linked])
        assert (str(file) in line) is linked
    assert "--link-mode copy" in call(command, sessions, "doctor").stdout
