"""The signer of a run: what the command could change does not sign, because it runs outside."""

from __future__ import annotations

import ast
import os
import stat
import sys
from types import SimpleNamespace

import pytest
import signed_session as signed

from nono_trio.audit import store
from nono_trio.audit.keys import key_store
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem.plan import FilePlan, Grant
from nono_trio.session import signing
from nono_trio.session.signing import run_followers, run_signer


def options_of(reference, granted, environment, credentials=()):
    audit = SimpleNamespace(
        sign_key=reference,
        state_root=granted.parent / "state",
        anchor_command=reference.removeprefix("cmd://"),
        witnesses=[],
    )
    session = SimpleNamespace(audit=audit, network=SimpleNamespace(credentials=credentials))
    return SimpleNamespace(session=session, sandbox=True, environment=environment)


def files_of(granted):
    grant = Grant(str(granted), "readwrite", is_file=False, source="--allow")
    return FilePlan((grant,), (), (), kept=(), start="/", directory="/")


def signer_of(reference, granted, environment, *, dry=False):
    return run_signer(options_of(reference, granted, environment), files_of(granted), dry=dry)


@pytest.fixture
def granted(tmp_path):
    (tmp_path / "granted").mkdir()
    return tmp_path / "granted"


@pytest.mark.parametrize(
    "line",
    [
        "{0}/planted", "sh {0}/planted", "sh -c '. {0}/planted'", "sh --file={0}/none-yet",
        "{1}/by-path", "planted",
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [False, True])
def test_what_signs_is_not_the_commands_to_change(granted, tmp_path, line, dry):
    scripts = {
        granted / "planted": "#!/bin/sh",
        tmp_path / "by-path": f"#!{granted}/planted",
    }
    for path, first in scripts.items():
        path.write_text(f"{first}\ntouch {tmp_path}/ran\n")
        path.chmod(stat.S_IRWXU)
    environment = {"PATH": f"{granted}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    line = line.format(granted, tmp_path)
    with pytest.raises(UsageError, match=r"--audit-sign-key: the command may change"):
        signer_of(f"cmd://{line}", granted, environment, dry=dry)
    assert not (tmp_path / "ran").exists()


def test_the_program_that_was_checked_signs(granted, tmp_path, monkeypatch):
    """The PATH of a signer lacks relative directories, so another program would be found in it."""
    key = key_store.key_path(tmp_path / "keys", "default")
    key_store.generate(key)
    (tmp_path / "bin").mkdir()
    checked = signed.signing_command(tmp_path / "bin", key)
    (granted / "planted").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (granted / "planted").chmod(stat.S_IRWXU)
    other = tmp_path / "system" / checked.name
    other.parent.mkdir()
    other.write_text(f"#!{granted}/planted\n")
    other.chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join(["bin", str(other.parent), os.environ["PATH"]])
    found = signer_of(f"cmd://{checked.name}", granted, {"PATH": path})
    assert not (tmp_path / "ran").exists()
    assert found.public == key_store.load_key("--file", str(key)).public


def test_a_signer_gets_no_variable_that_leads_to_what_the_command_may_write(granted, tmp_path):
    key = key_store.key_path(tmp_path / "keys", "default")
    key_store.generate(key)
    seen = tmp_path / "seen"
    before = f"import os; open({str(seen)!r}, 'w').write(repr(os.environ))"
    script = signed.signing_command(tmp_path, key, before)
    planted = granted / "python3"
    planted.write_text("#!/bin/sh\nexit 1\n")
    planted.chmod(stat.S_IRWXU)
    body = script.read_text().partition("\n")[2]
    script.write_text(f"#!/usr/bin/env python3\n{body}")
    path = os.pathsep.join([str(granted), os.path.dirname(sys.executable), os.environ["PATH"]])
    environment = {"PATH": path, "BASH_ENV": f"{granted}/startup"}
    found = signer_of(f"cmd://{script}", granted, environment)
    assert found.public == key_store.load_key("--file", str(key)).public
    assert str(granted) not in seen.read_text()


def test_what_runs_outside_gets_no_variable_of_a_credential(granted, tmp_path, monkeypatch):
    """A signer of a key service keeps its own variables, of AWS for example."""
    key = key_store.key_path(tmp_path / "keys", "default")
    key_store.generate(key)
    seen = tmp_path / "seen"
    before = f"import os; open({str(seen)!r}, 'w').write(repr(dict(os.environ)))"
    script = signed.signing_command(tmp_path, key, before)
    environment = {"MY_API_KEY": "a", "OTHER_TOKEN": "b", "AWS_PROFILE": "signer"}
    used = [
        make_credential("api", {}, source="env://MY_API_KEY", hosts=["api.example.com"]),
        make_credential(
            "other", {}, source="file:///f", hosts=["other.example.com"], variables=["OTHER_TOKEN"]
        ),
    ]
    options = options_of(f"cmd://{script}", granted, environment, used)

    def passed():
        return environment.keys() & ast.literal_eval(seen.read_text()).keys()

    run_signer(options, files_of(granted))
    assert passed() == {"AWS_PROFILE"}
    [anchor] = run_followers(options, None, files_of(granted))
    seen.unlink()
    store.audit_root(options.session.audit.state_root).mkdir(parents=True)
    anchor.publish(SimpleNamespace(note=b"", head=SimpleNamespace(origin="", size=0)))
    assert passed() == {"AWS_PROFILE"}
    seen.unlink()
    monkeypatch.setattr(signing, "caller_environment", lambda: environment)
    monkeypatch.setattr(signing, "forbid_core_dumps", lambda: None)
    signing.proxy_signer(options.session)
    assert passed() == {"AWS_PROFILE"}


def test_settings_of_the_keyring_that_the_command_may_change_are_refused(granted):
    with pytest.raises(UsageError, match="code that the keyring loads"):
        signer_of("keyring://a/b", granted, {"XDG_CONFIG_HOME": str(granted)})
