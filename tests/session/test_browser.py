"""Browsers, and tools that ask the system about itself, in the cage."""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from harness import allow, landlock_isolation, serving
from own_ca import write_authority
from tls_origin import signed_origin

import nono_trio
from nono_trio.core.policy.host_groups import GROUPS
from nono_trio.sandbox.filesystem.system_paths import LINUX

if TYPE_CHECKING:
    from harness import Origin, Sessions

ISOLATIONS = ["namespace", pytest.param("landlock", marks=landlock_isolation)]
CHROMIUM = shutil.which("chromium")
# Each line asks one tool, and says its name if it answers as it does outside.
TOOLS = {
    "dpkg": "dpkg -S /var/lib/dpkg/status /usr/bin/dpkg | grep -q '^dpkg: '",
    "update-alternatives": "update-alternatives --get-selections | grep -q /",
    "man": "man --path | grep -q /usr",
}


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_tools_that_ask_the_system_about_itself(sessions: Sessions, isolation: str) -> None:
    here = [
        name for name, script in TOOLS.items()
        if shutil.which(name) and os.system(f"({script}) >/dev/null 2>&1") == 0
    ]  # fmt: skip
    if not here:
        pytest.skip(f"none of {', '.join(TOOLS)} is installed")
    script = "; ".join(f"{TOOLS[name]} && echo {name}" for name in here)
    done = sessions.run("-s", "--isolation", isolation, "--", "sh", "-c", script)
    assert done.stdout.split() == here, done.stderr


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_the_systems_settings_are_readable_and_no_secret_is(
    sessions: Sessions, isolation: str
) -> None:
    settings = [path for path in LINUX.extra_read if os.access(path, os.R_OK)]
    closed = [
        path
        for path in ("/etc/shadow", "/etc/apt", "/etc/ssh", "/etc/wgetrc", "/etc/profile.d",
                     "/etc/sudoers", "/var/cache/debconf", "/var/lib/dpkg/../apt")
        if os.access(path, os.R_OK)
    ]  # fmt: skip
    script = """
        exec 3>&1 >/dev/null
        for path; do
            if [ -d "$path" ]; then ls "$path"; else head -c1 "$path"; fi || echo "$path" >&3
        done
    """
    done = sessions.run(
        "-s", "--isolation", isolation, "--", "sh", "-c", script, "sh", *settings, *closed
    )
    assert done.stdout.split() == closed, done.stderr


def test_no_directory_that_holds_a_companys_tokens_is_granted() -> None:
    for token in ("/etc/opt/chrome/policies/enrollment/T", "/etc/chromium/policies/enrollment/T"):
        assert not any(Path(token).is_relative_to(path) for path in LINUX.extra_read)


def test_the_browsers_documentation_is_that_of_the_group() -> None:
    """A browser needs each host with tls://; the profile can't say that of a group."""
    path = Path(nono_trio.__file__).parent / "profiles" / "browser.toml"
    entries = tomllib.loads(path.read_text())["network"]["allow_domain"]
    tls = [entry for entry in entries if entry.startswith("tls://")]
    assert tls == [f"tls://{host}" for host in GROUPS["documentation"]]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_screenshot_at_the_first_try(sessions: Sessions, origin: Origin, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = sessions.run(
        "-p", "browser", *allow(origin), "--", "chromium", "--headless",
        "--no-sandbox", "--no-proxy-server", "--screenshot=page.png",
        f"http://api.example.com:{origin.port}/page", cwd=work,
    )  # fmt: skip
    assert (work / "page.png").read_bytes().startswith(b"\x89PNG"), done.stderr
    assert "/page" in origin.seen
    denied = {event["target"] for event in sessions.decisions() if event["decision"] == "deny"}
    assert not any("example.com" in target for target in denied)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_page_under_tls_that_the_session_looks_into(sessions: Sessions, tmp_path: Path) -> None:
    """Before, Chromium refused the session's certificate."""
    own = write_authority(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    server = signed_origin(*own, "seen.example")
    where = f"seen.example:{server.port}"
    script = (
        'flags="--headless --no-sandbox --no-proxy-server --virtual-time-budget=20000 --dump-dom";'
        # Under load Chromium may see the cage's network come up, and then ends a page with nothing.
        ' for try in 1 2 3; do page=$(chromium $flags "$1/ok"); [ -z "$page" ] || break; done;'
        ' printf "%s\\n" "$page" &&'
        ' chromium $flags "$1/no" || exit; ls /etc/chromium/policies/managed >&2;'
        " ! touch /etc/chromium/policies/managed/x && ! rm /etc/chromium/policies/managed/*"
    )
    with serving(server):
        done = sessions.run(
            "-p", "browser", "--upstream-ca", str(own[0]),
            "--allow-domain", f"https://{where}/ok", "--resolve", f"{where}:127.0.0.1",
            "--", "sh", "-c", script, "sh", f"https://{where}", cwd=work,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ">ok\n<" in done.stdout, f"{server.seen} {done.stdout} {done.stderr}"
    assert f"GET https://{where}/no fits no endpoint rule" in done.stdout
    assert server.seen == ["/ok"]
    assert "\nnono-trio.json\n" in done.stderr
