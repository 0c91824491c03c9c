"""Seals and recoveries that are killed by SIGKILL before every system call that changes a file.

Run as a program: `killed_at.py seal|STATE DIRECTORY`. For n = 0, 1, 2 ... a forked process does the
work in DIRECTORY/n and is killed before the n-th call. The last process ends its work without being
killed. A profile function sees the calls, so no code is replaced and every call counts.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import archived
import crashed_session
import sealed_session as made
import signed_session
import trio

from nono_trio.audit import ledger
from nono_trio.audit.archive.import_session import import_archive
from nono_trio.audit.recovery import ledger_repair
from nono_trio.audit.recovery.cleanup import Limits, choose, clean_up
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.write.session_record import SessionFacts, SessionRecord
from nono_trio.audit.write.totals import Totals
from nono_trio.audit.write.writer import Writer
from nono_trio.core.log.events import encode_flow, encode_payload
from nono_trio.core.log.policy_json import SessionPolicy
from nono_trio.core.log.processes import UNKNOWN, Holder, Program

# `open` may create a file; `flush` writes buffered bytes.
CALLS = {
    "open", "write", "flush", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace",
    "unlink", "link", "mkdir", "rmdir", "flock",
}  # fmt: skip
DAMAGED = b'{"a line that": "nothing holds up"}\n'
MOST = 400  # far more calls than a seal or a recovery makes


def killed_before(number):
    """Kill this process after `number` more calls."""
    left = number

    def see(_frame, event, function):
        nonlocal left
        if event == "c_call" and function.__name__ in CALLS:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(see)


def start(root, number):
    """Start a session; the process is killed while it starts."""
    killed_before(number)
    SessionRecord(root, SessionFacts(command=["agent"], policy=SessionPolicy()))


def signed(root, number):
    """As `seal`, with a key."""
    seal(root, number, signed_session.signer())


def seal(root, number, signer=None):
    """Make a session with two decisions and a flow like the writer; killed while it seals."""
    record = SessionRecord(root, SessionFacts(command=["agent"], policy=SessionPolicy()), signer)
    record.executable = None
    files, log = record.files, record.files.log
    begun = [
        made.events.SessionStarted(started=record.started, command=record.command),
        record.policy_record,
        made.network(1, "allow", "example.com"),
    ]
    log.append([encode_payload(payload) for payload in begun])
    log.file.sync()
    files.checkpoint(log.position(), 0)
    log.checkpointed(written=True)
    flow = encode_flow(made.flow(2))
    files.flows.append(flow)
    files.flows_sha256.update(flow)
    denied = made.network(2, "deny", "evil.test")
    log.append([encode_payload(denied)])
    totals = Totals()
    totals.peak_queue = 1
    totals.add([*begun[1:], denied])
    killed_before(number)
    binding = record.summarise(totals, log.sequence + 2)
    log.append([encode_payload(binding), encode_payload(made.ended())], last=True)
    totals.keep_events([binding])
    record.seal(made.ended(), totals)


class _Programs:
    """Tells that one process made each record; the lines of every other record come later."""

    def __init__(self, recorder):
        self._recorder = recorder
        self.holder = Holder(7, 70, 0, Program("/usr/bin/agent", ["agent"], is_settled=True))

    def find(self, origins):
        return [self.holder.alone for _ in origins]

    def described(self, found):
        return None

    def lines(self, sequence, found):
        lines = found.lines(sequence)
        if sequence % 2:
            return lines
        self._recorder.record_lines(lines)
        return b""


def programs(root, number):
    """Make a session with records of programs; killed while the writer writes and seals."""
    record = SessionRecord(root, SessionFacts(command=["agent"], policy=SessionPolicy()))
    record.executable = None
    writer = Writer(record.files, mode="strict", sync="never", queue=8, warn=print)
    writer.summarise = record.summarise
    writer.ended = made.ended()

    async def write():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            with writer.recorder as recorder:
                started = made.events.SessionStarted(started=record.started, command=["agent"])
                await recorder.record_payload(started)
                await recorder.record_payload(record.policy_record)
                recorder.programs = _Programs(recorder)
                killed_before(number)
                for count in range(4):
                    event = made.network(count, "deny", "evil.test").event
                    await recorder.record(event, UNKNOWN)

    trio.run(write)
    record.seal(writer.ended, writer.totals)


def cleanup_killed(root, number):
    """Remove a sealed session and a crashed one; killed on the way."""
    made.build(root)
    made.unsealed(root, "fedcba9876543210")
    choice = choose(root, Limits(keep=0))
    killed_before(number)
    for _ in clean_up(root, choice, dry_run=False):
        pass


def import_killed(root, number):
    """Import the archive of a small session; killed on the way."""
    path = archived.archive_file(root.parent, made.build(root.parent / "origin"))
    killed_before(number)
    import_archive(path, root)


def recover_killed(state, root, number):
    directory = getattr(crashed_session, state)(root)
    killed_before(number)
    recover(directory)


def repair(root, number):
    """Repair a ledger that has one session's line and a damaged line after it."""
    made.build(root)
    with (root / ledger.LEDGER).open("ab") as file:
        file.write(DAMAGED)
    killed_before(number)
    ledger_repair.repair(root)


WORK = {
    "programs": programs,
    "seal": seal,
    "signed": signed,
    "start": start,
    "repair": repair,
    "cleanup": cleanup_killed,
    "import": import_killed,
}


def main(work, directory):
    for number in range(MOST):
        root = Path(directory, str(number), "audit")
        child = os.fork()
        if child == 0:
            try:
                if work in WORK:
                    WORK[work](root, number)
                else:
                    recover_killed(work, root, number)
                sys.setprofile(None)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        if not os.WIFSIGNALED(status):
            sys.exit(f"the work itself failed before call {number}")
    sys.exit(f"more than {MOST} calls")


if __name__ == "__main__":
    main(*sys.argv[1:])
