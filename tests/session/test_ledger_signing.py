"""The end of a signed run: each question is bounded, and a user who asks twice waits no longer."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest
import signed_session as signed
import trio
from harness import RUN_SECONDS, has_ended, wait_until

from nono_trio.audit.keys.key_store import key_path
from nono_trio.errors import AuditLost
from nono_trio.session import ledger_signing

SIGNED = ["--audit-sign-key", "default"]


class Hanging:
    """A follower, or a signer, that answers when it is stopped; `asked` counts the questions."""

    def __init__(self, others):
        self.others = others
        self.stopped = threading.Event()

    def publish(self, _head):
        self.others.wait(RUN_SECONDS)  # all are asked at the same time, or none of them goes on
        self.stopped.wait(RUN_SECONDS)

    def stop(self):
        self.stopped.set()


class Ledger:
    """In the place of a LedgerSigner."""

    def __init__(self, followers, sign=lambda: None):
        self.followers = followers
        self.sign = sign

    def newest(self):
        return object()

    def stop(self):
        for one in self.followers:
            one.stop()


async def forever():
    await trio.sleep_forever()


async def test_who_does_not_answer_is_stopped_at_the_deadline(monkeypatch):
    monkeypatch.setattr(ledger_signing, "END_SECONDS", 0.5)
    together = threading.Barrier(5)
    hanging = [Hanging(together) for _ in range(5)]
    told = []
    await ledger_signing.sign_ledger(Ledger(hanging), told.append, forever)
    assert all(one.stopped.is_set() for one in hanging)
    (text,) = told
    assert text.startswith("warning: the ledger's checkpoint was not handed on to all within")
    assert not together.broken


async def test_what_failed_is_told_although_others_hang(monkeypatch):
    monkeypatch.setattr(ledger_signing, "END_SECONDS", 0.5)
    failing = Hanging(threading.Barrier(1))

    def fail(_head):
        raise AuditLost("the lock stayed taken")

    failing.publish = fail
    told = []
    ledger = Ledger([failing, Hanging(threading.Barrier(1))])
    await ledger_signing.sign_ledger(ledger, told.append, forever)
    assert told[0] == "warning: the lock stayed taken"
    assert len(told) == 2


@pytest.mark.parametrize("hangs", ["the anchor command", "the signer"])
def test_asked_twice_a_run_waits_for_nobody(sessions, tmp_path, hangs):
    assert sessions.call("keys", "generate").returncode == 0
    started = tmp_path / "started"
    os.mkfifo(started)
    hang = f"open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    script = tmp_path / "program"
    script.write_text(f"#!{sys.executable} -B\nimport os, sys, time\n{hang}\n")
    script.chmod(0o700)
    options = [*SIGNED, "--anchor-command", str(script)]
    if hangs == "the signer":
        options = ["--audit-sign-key", f"cmd://{signer(sessions, tmp_path, hang)}"]
    with sessions.started("run", *options, "--", "true") as process:
        pid = int(started.read_text())
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=RUN_SECONDS)
    assert process.returncode == 0
    assert "because the run was asked twice to end; the next session" in said
    assert ("was not signed because" in said) == (hangs == "the signer")
    wait_until(lambda: has_ended(pid), "the end of what hung")
    assert sessions.verdict()[0] == 0


def signer(sessions, directory, hang):
    """A signer that hangs over the signature of the ledger only."""
    before = f"import os, time\nif b'/ledger/' in data: {hang}"
    return signed.signing_command(directory, key_path(sessions.state, "default"), before)
