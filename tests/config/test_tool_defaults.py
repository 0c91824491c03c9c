"""What pip, npm, cargo, uv and Go take without configuration, read from their own files."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from nono_trio.config.registries import read_registries, writable_files
from nono_trio.config.tool_defaults import (
    MAX_BYTES,
    Believed,
    cargo_default,
    go_default,
    npm_default,
    pip_default,
)

PIP = "lib/python3.13/site-packages/pip/_internal/models/index.py"
PIP_TEXT = (
    'PyPI = PackageIndex("https://index.example.com/", file_storage_domain="files.example.com")\n'
    'TestPyPI = PackageIndex("https://no.example.com/", file_storage_domain="no.example.com")\n'
)
NPM = "lib/node_modules/npm/node_modules/@npmcli/config/lib/definitions/definitions.js"
NPM_TEXT = (
    "  registry: new Definition('registry', {\n    default: 'https://npm.example.com/',\n"
    "  'replace-registry-host': new Definition('replace-registry-host', {\n"
)
GO_TEXT = (
    "# See https://no.example.com for details.\n"
    "GOPROXY=https://go.example.com,direct\nGOSUMDB=sum.example.com\nGOTOOLCHAIN=auto\n"
)
CARGO_TEXT = b"\x7fELF\0sparse+https://ints\0VERSIONsparse+https://crates.example.com/\0"
UV_TEXT = (
    b"\x7fELF\0https://no.example.com/simple\0index (by default: <https://uv.example.com/simple>)"
)
CARGO_CONFIG = ".cargo/registry/index/crates.example.com-0123456789abcdef/config.json"


@pytest.fixture
def tools(tmp_path):
    """A home with tools that are stand-ins: `add` writes a file, `default` reads one."""
    return Tools(tmp_path)


class Tools:
    def __init__(self, base):
        self.base = base
        self.home = base / "home"
        self.environ = {"PATH": str(base / "opt/bin"), "HOME": str(self.home)}

    def add(self, name, data=b"", mode=0o755):
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        path.chmod(mode)
        return path

    def default(self, reader, *writable):
        believed = Believed(tuple(map(os.path.realpath, writable)))
        found = reader(self.environ, str(self.home), believed)
        return found.urls, found.missing

    def add_all(self):
        for name in ("pip3", "npm", "go"):
            self.add(f"opt/bin/{name}")
        self.add("opt/bin/cargo", CARGO_TEXT)
        self.add(f"opt/{PIP}", PIP_TEXT)
        self.add(f"opt/{NPM}", NPM_TEXT)
        self.add("opt/go.env", GO_TEXT)
        self.add(f"home/{CARGO_CONFIG}", '{"dl": "https://static.example.com/crates"}')


EXPECTED = {
    pip_default: ["https://index.example.com/", "https://files.example.com/"],
    npm_default: ["https://npm.example.com/"],
    cargo_default: ["https://crates.example.com/", "https://static.example.com/crates"],
    go_default: ["https://go.example.com", "https://sum.example.com/"],
}


@pytest.mark.parametrize("reader", EXPECTED)
def test_each_default_is_in_the_tools_own_files(tools, reader):
    assert tools.default(reader)[0] == []
    tools.add_all()
    assert tools.default(reader) == (EXPECTED[reader], "")


@pytest.mark.parametrize("reader", EXPECTED)
def test_files_that_the_command_may_write_are_not_believed(tools, reader):
    """It could put a host of its own there, and be let through to it by the next run."""
    tools.add_all()
    urls, missing = tools.default(reader, tools.base / "opt")
    assert (urls, bool(missing)) == ([], True)
    (tools.base / "link").symlink_to(tools.base / "opt")
    tools.environ["PATH"] = str(tools.base / "link/bin")
    assert tools.default(reader, tools.base / "opt")[0] == []


def test_files_that_others_may_write_are_not_believed(tools):
    tools.add_all()
    tools.add(f"opt/{NPM}", NPM_TEXT, mode=0o666)
    assert tools.default(npm_default) == ([], "the host of its registry")
    if os.geteuid() == 0:
        os.chown(tools.add(f"opt/{NPM}", NPM_TEXT), 12_345, 12_345)
        assert tools.default(npm_default)[0] == []


def test_no_tool_is_run(tools):
    """A program on the path may be one that an earlier command put there."""
    tools.add_all()
    ran = tools.base / "ran"
    for name in ("pip3", "npm", "go", "cargo", "uv", "yarn", "node", "python3"):
        tools.add(f"opt/bin/{name}", f"#!/bin/sh\necho {name} >>{ran}\n")
    read_registries(tools.environ, str(tools.home))
    assert not ran.exists()


def test_the_tools_of_an_environment_stand_before_others(tools):
    tools.add_all()
    tools.add(f"venv/{PIP}", PIP_TEXT.replace("index.", "venv."))
    tools.environ["VIRTUAL_ENV"] = str(tools.base / "venv")
    assert tools.default(pip_default)[0][0] == "https://venv.example.com/"
    # An environment in the working directory is the command's: the next copy is read.
    assert tools.default(pip_default, tools.base / "venv")[0][0] == "https://index.example.com/"


def test_uv_and_toolchains_of_rustup(tools):
    tools.add("opt/bin/uv", UV_TEXT)
    expected = (["https://uv.example.com/simple"], "the host of its files")
    assert tools.default(pip_default) == expected
    tools.add("opt/bin/cargo", b"\x7fELF rustup")
    tools.add("home/.rustup/toolchains/stable-x/bin/cargo", CARGO_TEXT)
    expected = (["https://crates.example.com/"], "the host of its packages")
    assert tools.default(cargo_default) == expected


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"PyPI = PackageIndex(", b"x" * (MAX_BYTES + 9)]
)
def test_what_is_not_understood_gives_nothing(tools, text):
    tools.add_all()
    for name in (PIP, NPM, "go.env", "bin/cargo"):
        tools.add(f"opt/{name}", text)
    for reader in EXPECTED:
        urls, missing = tools.default(reader)
        assert urls == []
        assert missing
    tools.add("opt/bin/cargo", CARGO_TEXT)
    for text in ("[" * 100_000, "[]", '{"dl": 3}', '{"dl": "http://x.example.com"}'):
        tools.add(f"home/{CARGO_CONFIG}", text)
        assert tools.default(cargo_default)[0] == ["https://crates.example.com/"]


def ours(entries):
    """Without what the machine that runs the tests has in /etc."""
    return {entry for entry in entries if ".example.com" in entry}


def test_the_group_has_the_defaults_and_a_configuration_replaces_them(tools):
    tools.add_all()
    found = read_registries(tools.environ, str(tools.home))
    defaults = {f"{name}.example.com:443" for name in ("crates", "static", "go", "sum")}
    assert ours(found.entries) >= defaults
    tools.environ |= {"GOPROXY": "https://own.example.com", "GOSUMDB": "off"}
    found = read_registries(tools.environ, str(tools.home))
    own = {f"{name}.example.com:443" for name in ("crates", "static", "own")}
    assert ours(found.entries) >= own
    assert "go.example.com:443" not in found.entries


def test_one_line_says_what_to_name(tools):
    for name in ("cargo", "go"):
        tools.add(f"opt/bin/{name}")
    found = read_registries(tools.environ, str(tools.home))
    (line,) = [one for one in found.warnings if "no registry is configured" in one]
    assert "cargo (the host of its index and the one of the packages)" in line
    assert "Go (the hosts of its proxy and of its checksum database)" in line
    assert "--allow-domain HOST" in line


def test_a_command_that_may_write_a_tool_is_warned_of(tools):
    tools.add_all()
    opt = str(tools.base / "opt")
    files = writable_files(tools.environ, str(tools.home), [opt])
    assert {f"{opt}/{name}" for name in (PIP, NPM, "go.env", "bin/cargo")} <= {*files}


# -- the installed ones ---------------------------------------------------------------------------


def answer_of(*words, environ):
    done = subprocess.run(words, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{words[0]} does not work here: {done.stderr[-200:]}")
    return done.stdout.split()


def test_what_npm_itself_says(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    words = ["npm", "config", "get", "registry", "--globalconfig", str(tmp_path / "none")]
    assert npm_default(environ, str(tmp_path), Believed()).urls == answer_of(
        *words, environ=environ
    )


def test_what_pip_itself_says(tmp_path):
    python = "/usr/bin/python3"
    if not os.path.exists(python):
        pytest.skip(f"{python} is not installed")
    environ = {"PATH": "/usr/bin", "HOME": str(tmp_path)}
    code = "from pip._internal.models.index import PyPI as p; print(p.url, p.file_storage_domain)"
    url, files = answer_of(python, "-c", code, environ=environ)
    found = pip_default(environ, str(tmp_path), Believed())
    assert found.urls == [url, f"https://{files}/"]


def test_an_installed_cargo_has_one_index():
    home = os.path.expanduser("~")
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not installed")
    urls = cargo_default(dict(os.environ), home, Believed()).urls
    assert urls
    assert all(url.startswith("https://") for url in urls)
