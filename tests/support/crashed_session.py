"""The states in which a crash leaves a session, and the facts that must hold after its recovery."""

from __future__ import annotations

import json

import sealed_session as made

from nono_trio.audit import store
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify.session import verify
from nono_trio.core.log import events
from nono_trio.core.log.session_json import encode_metadata

ID = "0123456789abcdef"
TORN = b'{"sequence":4,"prev_chain":"77'
GAP = made.network(
    3, "deny", "nono-trio:audit", port=None, method=None, reason="7 events lost: queue full"
)


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def plain(root):
    return made.unsealed(root)


def torn(root):
    directory = made.unsealed(root)
    append(directory / store.LOG, TORN)
    return directory


def torn_everywhere(root):
    directory = torn(root)
    append(directory / store.CHECKPOINTS, b'{"v":1,"time":"2026-')
    append(directory / store.FLOWS, events.encode_flow(made.flow(2)) + b'{"sequence":2,"tar')
    return directory


def torn_with_newline(root):
    directory = made.unsealed(root)
    append(directory / store.LOG, b"\0" * 400 + b"\n")
    return directory


def empty(root):
    return made.unsealed(root, payloads=(), counts=())


def only_torn(root):
    directory = empty(root)
    append(directory / store.LOG, b'{"seq')
    return directory


def no_checkpoints(root):
    return made.unsealed(root, counts=())


def without_files(root):
    directory = no_checkpoints(root)
    (directory / store.CHECKPOINTS).unlink()
    (directory / store.FLOWS).unlink()
    return directory


def with_gap(root):
    return made.unsealed(root, payloads=(*made.SMALL[:-1], GAP), counts=(3,))


def ended_only(root):
    return made.unsealed(root, payloads=made.SMALL, counts=(3,))


def _opened(directory):
    """Write session.json without a seal: its state before the last step of sealing."""
    metadata = made.metadata(directory.name, made.SMALL, [], [], [], status="open")
    (directory / store.SESSION).write_bytes(encode_metadata(metadata))
    return directory


def final_checkpoint(root):
    return _opened(made.build(root, in_ledger=False))


def in_the_ledger(root):
    return _opened(made.build(root))


STATES = [
    plain, torn, torn_everywhere, torn_with_newline, empty, only_torn, no_checkpoints,
    without_files, with_gap, ended_only, final_checkpoint, in_the_ledger,
]  # fmt: skip
KNOWN_END = (ended_only, final_checkpoint, in_the_ledger)


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def log_payloads(directory):
    lines = (directory / store.LOG).read_bytes().splitlines()
    return [json.loads(line)["event"] for line in lines]


def require_recovered(directory, state):
    answer = verify(directory)
    assert (answer.verdict, answer.first_bad) == ("verified", None)
    assert any("recovered" in note for note in answer.notes) is (state not in KNOWN_END)
    last = log_payloads(directory)[-1]
    assert last["type"] == "session_ended"
    assert last["exit_code"] == (0 if state in KNOWN_END else -1)
    summary = store.read_summary(directory)
    # A whole log keeps its own summary, because its end is known.
    assert summary.nono_trio.status == ("sealed" if state in KNOWN_END else "recovered")
    assert summary.exit_code == last["exit_code"]


def steps_of(state, root):
    """The names of a recovery's steps, in order."""
    seen = []
    recover(state(root), seen.append)
    return seen


class Fault:
    """Fails at the n-th step."""

    def __init__(self, number):
        self.left = number

    def __call__(self, name):
        if self.left == 0:
            raise OSError(28, "No space left on device", name)
        self.left -= 1
