"""Our own interpreter never loads code that a variable of the caller's names."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import NONO_TRIO, RUN_SECONDS, guarded, needs_curl
from packaging.requirements import Requirement

from nono_trio import startup
from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem import named_directories
from nono_trio.sandbox.filesystem.grant import Grant
from nono_trio.startup import Beginning

ISOLATIONS = ["namespace", pytest.param("landlock", marks=guarded)]
# Of the caller's Python: these run before any statement of ours, with the caller's search path.
BEFORE_US = {"nono_trio", "sitecustomize", "usercustomize", "_distutils_hack"}


@pytest.fixture
def project(sessions):
    directory = sessions.home / "project"
    directory.mkdir()
    return directory


def plant(directory, *names):
    """Modules that leave their name in `loaded` when they are imported; return that file."""
    loaded = directory.parent / "loaded"
    for name in names:
        text = f"open({str(loaded)!r}, 'a').write({name!r} + '\\n')\nraise ImportError({name!r})\n"
        (directory / f"{name}.py").write_text(text)
    return loaded


# -- the list of dependencies ---------------------------------------------------------------------


def requirements(name, seen):
    """The import names of a distribution and all that it requires here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    if key in seen:
        return
    found = importlib.metadata.distribution(name)
    tops = {file.parts[0] for file in found.files or () if file.suffix in (".py", ".so")}
    seen[key] = {top.split(".")[0] for top in tops if top not in ("..", "__pycache__")}
    for text in found.requires or ():
        required = Requirement(text)
        if required.marker is None or required.marker.evaluate({"extra": ""}):
            requirements(required.name, seen)


def test_every_dependency_is_listed():
    seen = {}
    requirements("nono-trio", seen)
    names = set().union(*seen.values()) - {"nono_trio"}
    assert names <= set(startup.DEPENDENCIES)
    assert len(names) > 10


# -- re-execution ---------------------------------------------------------------------------------


@needs_curl
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_module_planted_where_a_variable_points_is_never_loaded(sessions, project, isolation):
    """Planted from a clean shell; the next command has the variable set."""
    first = {**sessions.environment, "PYTHONPATH": ".", "PYTHONPROFILEIMPORTTIME": "1"}
    shown = subprocess.run(
        [NONO_TRIO, "--version"], cwd=project, env=first, capture_output=True, text=True,
        check=True, timeout=RUN_SECONDS,
    )  # fmt: skip
    loaded_first = set(re.findall(r"\| +([\w.]+)$", shown.stderr, re.MULTILINE))
    tops = {name.split(".")[0] for name in loaded_first}
    assert tops - sys.stdlib_module_names <= BEFORE_US
    assert "click" not in tops
    names = {*sys.stdlib_module_names, *startup.DEPENDENCIES, "encodings"} - tops
    loaded = plant(project, *names)
    sessions.variables["PYTHONPATH"] = "."
    done = sessions.run(
        "--isolation", isolation, "--allow-domain", "bücher.invalid",
        "--", "curl", "--silent", "http://xn--bcher-kva.invalid/", cwd=project,
    )  # fmt: skip
    assert "the name has no address" in done.stderr or "xn--bcher" in done.stderr
    verified = sessions.call("audit", "verify", "latest", cwd=project)
    assert verified.stdout.startswith("verified"), verified.stderr
    assert not loaded.exists(), loaded.read_text()


@pytest.mark.parametrize("isolation", ISOLATIONS)
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYTHONPATH", "."),
        ("PYTHONPATH", "/usr/share:"),
        ("PYTHONUSERBASE", "base"),
        ("LD_LIBRARY_PATH", "/nowhere:"),
        ("OPENSSL_CONF", "openssl.cnf"),
    ],
)
def test_a_grant_over_what_a_variable_names_is_refused(
    sessions, project, isolation, variable, value
):
    sessions.variables[variable] = value
    command = ["--isolation", isolation, "--allow-cwd", "--", "true"]
    refused = sessions.run(*command, cwd=project)
    assert refused.returncode == 2
    assert f"--allow-cwd {project} would let the command write {project}" in refused.stderr
    assert f"hint: unset it for the run: env -u {variable} nono-trio" in refused.stderr
    del sessions.variables[variable]
    assert sessions.run(*command, cwd=project).returncode == 0


def test_python_m_takes_the_working_directory_for_a_place_of_code(sessions, project):
    def run(*flags):
        return subprocess.run(
            [sys.executable, *flags, "-m", "nono_trio", "run", "--allow-cwd", "--", "true"],
            cwd=project, env=sessions.environment, capture_output=True, text=True,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip

    loaded = plant(project, "stringprep", "click")
    refused = run()
    assert refused.returncode == 2
    assert "hint: run it as `nono-trio`, or as `python -P -m nono_trio`" in refused.stderr
    assert run("-P").returncode == 0
    assert not loaded.exists()


def test_the_command_gets_the_callers_environment(sessions, project):
    sessions.variables |= {
        "OPENSSL_CONF": "/nowhere/with a space", "PYTHONUSERBASE": "/nowhere", "PYTHONPATH": "/x",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    done = sessions.run("--", "env", cwd=project)
    got = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert got["OPENSSL_CONF"] == "/nowhere/with a space"
    assert (got["PYTHONUSERBASE"], got["PYTHONUNBUFFERED"]) == ("/nowhere", "1")
    assert "PYTHONPATH" not in got  # never passed on


def test_it_is_one_process_with_its_arguments(sessions, project):
    sessions.variables["PYTHONPATH"] = "/nowhere"
    assert sessions.call("--version").stdout == "nono-trio 0.1.0\n"
    assert "no such option" in sessions.run("--nope", cwd=project).stderr.lower()
    assert sessions.run("--", "sh", "-c", "exit 7", cwd=project).returncode == 7
    with sessions.started("proxy", "--allow-domain", "example.com") as proxy:
        assert f'"session_id"' in proxy.stdout.readline()  # noqa: F541
        command = Path(f"/proc/{proxy.pid}/cmdline").read_bytes().split(b"\0")
        assert b"-I" in command
        proxy.terminate()
        assert proxy.wait(RUN_SECONDS) == 0


def test_a_place_that_has_one_dependency_comes_last_if_it_is_named_last(tmp_path):
    """It may have more: modules of the others' names, which somebody planted there."""
    ours, other = tmp_path / "ours", tmp_path / "other"
    for directory, names in ((ours, startup.DEPENDENCIES[1:]), (other, startup.DEPENDENCIES)):
        directory.mkdir()
        for name in names:
            (directory / f"{name}.py").touch()
    path = [str(ours), str(other)]
    assert startup.dependency_directories(path) == path


def test_the_place_of_the_whole_installation_comes_first(tmp_path):
    """An older package of the system hides none of those that a variable leads to."""
    system, target = tmp_path / "system", tmp_path / "target"
    for directory, names in ((system, ["cryptography"]), (target, startup.DEPENDENCIES)):
        directory.mkdir()
        for name in names:
            (directory / f"{name}.py").touch()
    system, target = str(system), str(target)
    assert startup.ordered([system], [target]) == [target, system]
    assert startup.ordered([target], [system]) == [target, system]
    assert startup.ordered([target], []) == [target]


def test_packages_that_only_a_variable_leads_to_are_carried_along(sessions, project, tmp_path):
    """`pip install --target`, and modules of a cluster."""
    (site_packages,) = startup.dependency_directories(sys.path)
    target = tmp_path / "target"
    target.mkdir()
    package = Path(startup.__file__).parent
    (target / "nono_trio").symlink_to(package)
    command = [sys.executable, "-S", "-c", "from nono_trio.entry import main; main()"]
    sessions.variables["PYTHONPATH"] = f"{target}:{site_packages}"

    def run(*granted):
        return subprocess.run(
            [*command, "run", *granted, "--", "echo", "done"],
            cwd=project, env=sessions.environment, capture_output=True, text=True,
            timeout=RUN_SECONDS, check=False,
        )  # fmt: skip

    assert run().stdout == "done\n"
    refused = run("--allow", str(tmp_path / "target"))
    assert (refused.returncode, "PYTHONPATH" in refused.stderr) == (2, True)


def test_the_working_directory_offers_no_package_that_is_missing(sessions, project, tmp_path):
    """An installation may lack a new dependency, and PYTHONPATH=. is common in checkouts."""
    (site_packages,) = map(Path, startup.dependency_directories(sys.path))
    missing = "ahocorasick_rs"
    partial = tmp_path / "partial"
    partial.mkdir()
    for entry in site_packages.iterdir():
        if not entry.name.startswith(missing):
            (partial / entry.name).symlink_to(entry)
    (partial / "nono_trio").symlink_to(Path(startup.__file__).parent)
    loaded = plant(project, *startup.DEPENDENCIES, "msvcrt")
    sessions.variables["PYTHONPATH"] = f"{partial}:."
    # The venv's interpreter would find the missing one in the venv.
    begin = "from nono_trio.entry import main; main()"
    done = subprocess.run(
        [sys._base_executable, "-c", begin, "run", "--", "true"],
        cwd=project, env=sessions.environment, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert "outside the cage, the command starts in /" in done.stderr  # it has begun
    assert not loaded.exists(), loaded.read_text()


# -- what the variables name ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "granted", "refused"),
    [
        ("PYTHONPATH", "{0}/lib", "{0}", True),
        ("PYTHONPATH", "{0}/absent", "{0}", True),
        ("PYTHONPATH", "{0}/link", "{0}", True),
        ("PYTHONPATH", "{0}", "{0}/lib", False),
        ("PYTHONPATH", "{0}", "{0}/json", True),
        ("PYTHONPATH", "{0}", "{0}/sitecustomize.py", True),
        ("PYTHONPATH", "", "{0}", False),
        ("PYTHONHOME", "/usr:{0}/lib", "{0}", True),
        ("PYTHONUSERBASE", "{0}", "{0}/lib", True),
        ("PYTHONPYCACHEPREFIX", "{0}", "{0}/json", True),
        ("LD_LIBRARY_PATH", "/usr/lib;{0}/lib", "{0}", True),
        ("LD_LIBRARY_PATH", "{0}/lib/$LIB", "{0}/lib", True),
        ("LD_PRELOAD", "libm.so.6 {0}/lib/a.so", "{0}", True),
        ("LD_PRELOAD", "libm.so.6", "{0}", False),
        ("LD_AUDIT", "{0}/a.so", "{0}", True),
        ("GCONV_PATH", "{0}/lib", "{0}", True),
        ("LOCPATH", "{0}/lib", "{0}", True),
        ("NLSPATH", "{0}/lib/%L/%N.cat", "{0}", True),
        ("HOSTALIASES", "{0}/hosts", "{0}", True),
        ("OPENSSL_CONF", "{0}/openssl.cnf", "{0}", True),
        ("OPENSSL_MODULES", "{0}/lib", "{0}/lib", True),
        ("OPENSSL_ENGINES", "{0}/lib", "{0}/other", False),
    ],
)
def test_what_a_variable_names(monkeypatch, tmp_path, variable, value, granted, refused):
    for name in ("lib", "json", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("/usr/share")
    began = Beginning(
        {variable: value.format(tmp_path)}, [], uses_working_directory=False, user_site=False
    )
    monkeypatch.setattr(startup, "beginning", lambda: began)
    path = granted.format(tmp_path)
    grants = [Grant(path, "readwrite", path.endswith(".py"), "--allow", asked_for=True)]
    named_directories.refuse_named([Grant(path, "read", False, "--read", asked_for=True)])
    if not refused:
        named_directories.refuse_named(grants)
        return
    with pytest.raises(UsageError, match=variable):
        named_directories.refuse_named(grants)


def test_every_variable_of_the_list_is_known(monkeypatch, tmp_path):
    assert len(startup.VARIABLES) == 14
    for variable in startup.VARIABLES:
        began = Beginning(
            {variable: f"{tmp_path}/x"}, [], uses_working_directory=False, user_site=False
        )
        assert next(iter(named_directories.named_paths(began))).path == f"{tmp_path}/x"


# -- Ctrl-C at the start --------------------------------------------------------------------------

INTERRUPTED = """
import signal, sys
def interrupt(event, arguments):
    if event == "import" and arguments[0] == "click":
        signal.raise_signal(signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(interrupt)
from nono_trio.entry import main
sys.argv = ["nono-trio", "ps"]
main()
"""


def test_ctrl_c_while_modules_are_imported_ends_without_a_traceback():
    done = subprocess.run(
        [sys.executable, "-P", "-c", INTERRUPTED],
        capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


# -- no code is loaded once the command runs ------------------------------------------------------

LATE = """
import sys
from nono_trio.sandbox import cage
go = cage.Cage.go
async def late(self, command):
    await go(self, command)
    import wave
cage.Cage.go = late
from nono_trio.entry import main
sys.argv = ["nono-trio", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_module_that_comes_late_is_refused_and_the_log_is_sealed(sessions, project, isolation):
    done = subprocess.run(
        [sys.executable, "-P", "-c", LATE, "run", "--isolation", isolation, "--", "sleep", "60"],
        cwd=project, env=sessions.environment, capture_output=True, text=True,
        timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: the module wave was to be loaded after the command had started" in done.stderr
    assert "Traceback" not in done.stderr
    assert sessions.verdict()[1]["verdict"] == "verified"


def test_what_was_imported_stays_and_a_codec_is_a_module():
    script = """
import json
from nono_trio.errors import NonoTrioError
from nono_trio.session.preload import refuse_late_imports
refuse_late_imports()
refuse_late_imports()
import json
b"text".decode("latin-1")
try:
    b"text".decode("cp437")
except LookupError:
    print("no codec")
try:
    import wave
except ImportError as error:
    print(isinstance(error, NonoTrioError), error.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        timeout=RUN_SECONDS, cwd="/", env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.stdout == "no codec\nTrue wave\n"


def test_a_start_looks_for_garbage_rarely_and_a_session_as_usual():
    usual = gc.get_threshold()
    startup.collect_rarely()
    try:
        assert gc.get_threshold()[0] >= 50_000
    finally:
        startup.collect_as_usual()
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() > 0
    gc.unfreeze()
    startup.collect_as_usual()  # in a program that is not the command: it decides itself
    assert gc.get_freeze_count() == 0


def test_a_session_collects_as_usual(sessions):
    script = """
import gc, sys
import trio
from nono_trio import entry
usual = gc.get_threshold()
run = trio.run
def looked(*arguments):
    sys.stderr.write(f"as usual: {gc.get_threshold() == usual}\\n")
    return run(*arguments)
trio.run = looked
sys.argv = ["nono-trio", "run", "-s", "--", "true"]
entry.main()
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False,
        timeout=RUN_SECONDS, cwd="/", env=sessions.environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "as usual: True" in done.stderr
