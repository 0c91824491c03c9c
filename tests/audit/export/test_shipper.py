"""The shipper against real receivers: records, messages and cursors."""

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import types

import msgspec
import pytest
import trio
from otlp_receiver import receiving
from sealed_session import build, ended, flow, log_of, network, running, started, unsealed

from nono_trio.audit import store
from nono_trio.audit.export.cursor import Cursor, Sent
from nono_trio.audit.export.destination import CommandDestination, FileDestination
from nono_trio.audit.export.export import Exporter
from nono_trio.audit.export.otlp_endpoint import Endpoint, OtlpEndpoint
from nono_trio.audit.export.session_reader import Position, SessionReader
from nono_trio.audit.export.shipper import ShipFailed, Shipper
from nono_trio.audit.recovery.forget import forget
from nono_trio.audit.recovery.recover import recover
from nono_trio.audit.verify import bound_facts
from nono_trio.audit.verify.bound_files import FLOWS_MISMATCH, PROCESSES_MISMATCH
from nono_trio.core.log import events
from nono_trio.core.log.record import encode_record
from nono_trio.errors import LogRewritten, LogUnreadable, UsageError

SECONDS = 60
KILLS = 6


def payloads(count):
    return [started(), *(network(n, "allow", f"h{n}.test") for n in range(count)), ended()]


def expected_ids(session_id, count, flows=()):
    return {
        *(f"{session_id}/{n}" for n in range(count)), *(f"{session_id}/{n}/flow" for n in flows)
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    path = tmp_path / "audit"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def receiver():
    with receiving() as one:
        yield one


class Told(list):
    def has(self, text):
        return any(text in line for line in self)


async def ship(
    root, receiver, told=None, *, follow=False, form="otlp", headers=tuple, stopping=False
):
    """Ship everything once to the receiver; returns what `run` returns."""
    endpoint = Endpoint(tls=False, host="127.0.0.1", port=receiver.port, path="/v1/logs")
    destination = OtlpEndpoint(endpoint, form, lambda: list(headers()), None, integrity=False)
    cursor = Cursor(root.parent, "receiver", form)
    shipper = Shipper(
        root, cursor, destination, (told if told is not None else Told()).append,
        follow=follow, first_seconds=0.001,
    )  # fmt: skip
    if stopping:
        shipper.stopping.set()
    with trio.fail_after(SECONDS), cursor.held():
        return await shipper.run()


async def test_everything_comes_once_and_in_order_and_the_next_run_sends_nothing(root, receiver):
    build(root, "aaaa", payloads(1200), flows=[flow(5), flow(3)])
    build(root, "bbbb")
    shipped = await ship(root, receiver)
    first = expected_ids("aaaa", 1204, (3, 5))
    assert {*receiver.taken} == first | expected_ids("bbbb", 7)
    assert len(receiver.taken) == shipped.lines == len({*receiver.taken})
    ours = [uid for uid in receiver.taken if uid.startswith("aaaa/") and "flow" not in uid]
    assert ours == [f"aaaa/{n}" for n in range(1204)]
    again = await ship(root, receiver)
    assert (again.lines, again.faults) == (0, 0)
    cursors = [*(root.parent / "ship").glob("*/*.cursor")]
    assert len(cursors) == 2
    assert all(one.stat().st_mode & 0o777 == 0o600 for one in cursors)


@pytest.mark.parametrize("answer", [429, 500, 502, 503, 504, 401, 404, 302, "cut", "page"])
async def test_a_receiver_that_does_not_take_a_batch_gets_it_again(root, receiver, answer):
    build(root, "aaaa")
    receiver.answers = [answer, answer]
    told = Told()
    await ship(root, receiver, told)
    assert receiver.taken == [f"aaaa/{n}" for n in range(7)]
    assert told.has("does not take records")
    assert told.has("answers again")


async def test_retry_after_is_waited_for(root, receiver, monkeypatch):
    build(root, "aaaa")
    waited = []

    def no_wait(self, asked=None):
        waited.append(asked)
        return 0.0

    monkeypatch.setattr("nono_trio.audit.export.shipper.Backoff.next_seconds", no_wait)
    receiver.answers, receiver.retry_after = [503], "7"
    await ship(root, receiver)
    assert waited == [7.0]


async def test_a_receiver_that_is_too_slow_gets_the_batch_again(root, receiver, monkeypatch):
    monkeypatch.setattr("nono_trio.audit.export.otlp_endpoint.REQUEST_SECONDS", 0.3)
    build(root, "aaaa")
    receiver.answers = ["slow"]
    told = Told()
    await ship(root, receiver, told)
    assert told.has("no answer within")
    assert receiver.taken == [f"aaaa/{n}" for n in range(7)]


async def test_rejected_records_are_told_and_not_sent_again(root, receiver):
    build(root, "aaaa")
    receiver.answers = ["partial"]
    told = Told()
    shipped = await ship(root, receiver, told)
    assert receiver.requests == 1
    assert told.has("1 record rejected: too")
    assert (shipped.lines, shipped.refused) == (6, 1)
    await ship(root, receiver, told)
    assert receiver.requests == 1


async def test_a_record_that_is_refused_for_good_is_told_and_the_others_come(root, receiver):
    build(root, "aaaa", payloads(40))
    receiver.refuses = {"aaaa/17"}
    told = Told()
    shipped = await ship(root, receiver, told)
    assert receiver.taken == [f"aaaa/{n}" for n in range(44) if n != 17]
    assert shipped.refused == 1
    assert told.has("aaaa/17 was refused and left out: it answers with status 400")


async def test_a_receiver_that_refuses_everything_loses_nothing(root, receiver):
    build(root, "aaaa")
    receiver.refuses = {f"aaaa/{n}" for n in range(7)}
    told = Told()
    shipped = await ship(root, receiver, told)
    assert (shipped.lines, shipped.refused, shipped.faults) == (0, 0, 1)
    assert told.has("the receiver refuses every record: it answers with status 400")
    build(root, "bbbb")  # taken, so the receiver works
    shipped = await ship(root, receiver, told)
    assert (shipped.lines, shipped.refused, shipped.faults) == (7, 7, 0)
    assert receiver.taken == [f"bbbb/{n}" for n in range(7)]


async def test_a_dead_receiver_ends_a_run_that_does_not_follow_and_nothing_is_lost(root, receiver):
    build(root, "aaaa")
    receiver.answers = [503] * 20
    with pytest.raises(ShipFailed, match="status 503"):
        await ship(root, receiver)
    receiver.answers = []
    await ship(root, receiver)
    assert receiver.taken == [f"aaaa/{n}" for n in range(7)]


async def test_a_body_may_be_the_text_of_another_format(root, receiver):
    build(root, "aaaa")
    await ship(root, receiver, form="ocsf")
    assert {json.loads(body)["class_uid"] for body in receiver.bodies} == {6002, 4001}


@pytest.mark.parametrize("what", ["removed", "cut", "replaced", "damaged"])
async def test_a_session_that_changes_between_two_runs_is_told_and_the_others_come(
    root, receiver, what
):
    directory = running(root, "aaaa", payloads(20)[:-1])
    await ship(root, receiver)
    log = log_of(directory)
    if what == "removed":
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()
    elif what == "cut":
        log.write_bytes(log.read_bytes()[:2000] + b"\n")
    elif what == "replaced":
        log.write_bytes(log.read_bytes().replace(b"h19.test", b"h1x.test"))
    else:
        log.write_bytes(log.read_bytes() + b'{"sequence":0}\n')
    build(root, "bbbb")
    told = Told()
    shipped = await ship(root, receiver, told)
    assert shipped.faults == 1
    assert told.has("was removed before" if what == "removed" else "TAMPERED")
    assert "bbbb/6" in receiver.taken
    assert f"aaaa/{'removed' if what == 'removed' else 'tampered'}" in receiver.taken
    assert len(receiver.taken) == len({*receiver.taken})
    known = {one.name for one in (root.parent / "ship").glob("*/*.cursor")}
    assert known == ({"bbbb.cursor"} if what == "removed" else {"aaaa.cursor", "bbbb.cursor"})


def test_a_session_that_is_forgotten_while_it_is_read_was_removed_and_not_tampered_with(root):
    for beginning in (0, 1):
        reader = SessionReader(build(root, "aaaa", payloads(20)))
        for _ in range(beginning):
            reader.read(live=False, limit=5)
        assert forget(root, "aaaa")
        for one in (reader, SessionReader(root / "aaaa", reader.position)):
            with pytest.raises(LogUnreadable, match="was removed on purpose") as caught:
                one.read(live=False)
            assert not isinstance(caught.value, LogRewritten)


async def test_a_log_that_grew_after_it_was_sent_whole_is_told(root, receiver):
    """It was never looked at again."""
    for name in ("aaaa", "bbbb"):
        build(root, name)
    await ship(root, receiver)
    log = log_of(root / "aaaa")
    log.write_bytes(log.read_bytes() + log.read_bytes())
    told = Told()
    shipped = await ship(root, receiver, told)
    assert (shipped.faults, shipped.lines) == (1, 1)
    assert told.has("line after record 6: sequence mismatch")
    assert "aaaa/tampered" in receiver.taken


@pytest.mark.parametrize("has_end", [False, True])
async def test_what_a_recovery_adds_to_a_session_that_was_sent_is_sent_by_the_next_run(
    root, receiver, has_end
):
    directory = unsealed(root, "aaaa", payloads(3) if has_end else payloads(3)[:-1])
    if not has_end:
        log_of(directory).write_bytes(log_of(directory).read_bytes() + b'{"sequence":')
    await ship(root, receiver)
    before = len(receiver.taken)
    answer = recover(directory)
    told = Told()
    assert (await ship(root, receiver, told)).faults == 0
    assert not told
    assert before == answer.event_count - (0 if has_end else 3)
    assert receiver.taken == [f"aaaa/{n}" for n in range(answer.event_count)]
    assert (await ship(root, receiver)).lines == 0


@pytest.mark.parametrize("field", ["log", "flows", "processes"])
def test_a_cursor_with_an_offset_that_no_file_has_is_a_damaged_one(root, field):
    cursor = Cursor(root.parent, "receiver", "otlp")
    with cursor.held():
        cursor.save("aaaa", Sent(position=Position(**{field: 2**63 - 1})))
        assert getattr(cursor.load("aaaa").position, field) == 2**63 - 1
        cursor.save("aaaa", Sent(position=Position(**{field: 2**63})))
        assert cursor.load("aaaa") == Sent(position=Position())


async def test_a_damaged_cursor_sends_its_session_again_with_the_same_ids(root, receiver):
    build(root, "aaaa")
    await ship(root, receiver)
    (cursor,) = (root.parent / "ship").glob("*/*.cursor")
    cursor.write_bytes(b'{"v":1,"position":{"log":-5}}')
    await ship(root, receiver)
    assert receiver.taken == [f"aaaa/{n}" for n in range(7)] * 2


async def test_a_live_session_is_followed_and_a_new_one_found(root, receiver):
    directory = running(root, "aaaa", payloads(1)[:-1])
    endpoint = Endpoint(tls=False, host="127.0.0.1", port=receiver.port, path="/v1/logs")
    destination = OtlpEndpoint(endpoint, "otlp", list, None, integrity=False)
    cursor = Cursor(root.parent, "receiver", "otlp")
    shipper = Shipper(root, cursor, destination, print, follow=True)
    with trio.fail_after(SECONDS), cursor.held():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shipper.run)
            await wait_for(receiver, lambda one: "aaaa/2" in one.taken)
            append(directory, network(9, "deny", "later.test"))
            await wait_for(receiver, lambda one: "aaaa/3" in one.taken)
            build(root, "bbbb")
            await wait_for(receiver, lambda one: "bbbb/6" in one.taken)
            append(directory, network(9, "deny", "last.test"))
            shipper.stopping.set()
    assert receiver.taken.count("aaaa/4") == 1


@pytest.mark.parametrize("follow", [True, False])
async def test_after_a_signal_all_that_is_there_is_sent(root, receiver, monkeypatch, follow):
    monkeypatch.setattr(f"{Shipper.__module__}.BATCHES_A_TURN", 1)
    build(root, "aaaa", payloads(1200))
    await ship(root, receiver, follow=follow, stopping=True)
    assert {*receiver.taken} == expected_ids("aaaa", 1204)


async def wait_for(receiver, ready):
    await trio.to_thread.run_sync(receiver.wait_for, ready)


def append(directory, payload):
    log = log_of(directory)
    last = json.loads(log.read_bytes().splitlines()[-1])
    text = events.encode_payload(payload)
    line, _, _ = encode_record(last["sequence"] + 1, bytes.fromhex(last["chain_hash"]), text)
    with log.open("ab") as file:
        file.write(line)


def test_a_second_shipper_of_one_destination_is_refused(root):
    cursor = Cursor(root.parent, "receiver", "otlp")
    other = Cursor(root.parent, "receiver", "otlp")
    with (
        cursor.held(),
        pytest.raises(UsageError, match="another process ships to receiver"),
        other.held(),
    ):
        pass


async def test_half_a_line_of_a_killed_shipper_is_cut_and_that_of_others_kept(tmp_path, root):
    build(root, "aaaa")
    whole = tmp_path / "whole"

    async def run(path, name):
        destination = FileDestination(str(path), "ndjson", integrity=False)
        cursor = Cursor(tmp_path, name, "ndjson")
        with cursor.held():
            await Shipper(root, cursor, destination, print, follow=False).run()
        return path.read_bytes()

    data = await run(whole, "a")
    assert whole.stat().st_mode & 0o777 == 0o600
    torn = tmp_path / "torn"
    torn.write_bytes(data[: len(data) // 2])
    after = await run(torn, "b")
    lines = [json.loads(line)["id"] for line in after.splitlines()]
    assert {*lines} == expected_ids("aaaa", 7)
    others = tmp_path / "others"
    others.write_bytes(b"a note without a newline")
    assert await run(others, "c") == b"a note without a newline\n" + data


# ---- the command, in a process of its own ----


@pytest.mark.parametrize("rotation", ["removed", "moved", "replaced"])
async def test_a_file_that_is_rotated_meanwhile_has_taken_nothing(
    root, tmp_path, monkeypatch, rotation
):
    build(root, "aaaa")
    out, flock, rotated = tmp_path / "out", fcntl.flock, []

    def rotate_and_lock(descriptor, how):
        if not rotated:
            rotated.append(out.rename(tmp_path / "out.1"))
            if rotation == "removed":
                rotated[0].unlink()
            elif rotation == "replaced":
                out.touch(0o600)
        return flock(descriptor, how)

    told = Told()
    destination = FileDestination(str(out), "ndjson", integrity=False)
    cursor = Cursor(root.parent, "file", "ndjson")
    shipper = Shipper(root, cursor, destination, told.append, follow=False, first_seconds=0.001)
    with trio.fail_after(SECONDS), cursor.held():
        monkeypatch.setattr("nono_trio.audit.export.destination.fcntl.flock", rotate_and_lock)
        assert (await shipper.run()).lines == 7
    assert len(out.read_text().splitlines()) == 7
    assert told.has("No such file" if rotation != "replaced" else "was replaced while")


@pytest.mark.parametrize(
    ("name", "failure"),
    [(store.FLOWS, FLOWS_MISMATCH), (store.PROCESSES, PROCESSES_MISMATCH)],
)
async def test_what_lies_beside_a_sealed_log_is_compared_before_it_is_sent(
    root, receiver, name, failure
):
    directory = build(root, "aaaa", flows=[flow(3)])
    with (directory / name).open("ab") as file:
        file.write(events.encode_flow(flow(3, up=9)))
    build(root, "bbbb")
    told = Told()
    shipped = await ship(root, receiver, told)
    assert (shipped.faults, told.has(f"aaaa: {failure}")) == (1, True)
    assert {*receiver.taken} == {"aaaa/tampered"} | expected_ids("bbbb", 7)
    with pytest.raises(LogRewritten, match=failure):
        Exporter("ndjson", lambda _: None).export(directory)


async def test_what_lies_beside_a_log_that_is_sealed_meanwhile_is_compared_at_its_end(
    root, receiver, monkeypatch
):
    directory = build(root, "aaaa", flows=[flow(3)])
    looks = []

    def look(*arguments, **options):
        """The first time as if it were not sealed; then flows that the seal does not have."""
        looks.append(found := bound_facts.look(*arguments, **options))
        if len(looks) > 1:
            return found
        with (directory / store.FLOWS).open("ab") as file:
            file.write(events.encode_flow(flow(3, up=9)))
        return msgspec.structs.replace(found, sealed=False)

    told, seen = Told(), types.SimpleNamespace(look=look)
    monkeypatch.setattr("nono_trio.audit.export.shipper.bound_facts", seen)
    shipped = await ship(root, receiver, told)
    assert (shipped.faults, told.has(f"aaaa: {FLOWS_MISMATCH}")) == (1, True)
    assert "aaaa/tampered" in receiver.taken
    (cursor,) = (root.parent / "ship").glob("*/aaaa.cursor")
    assert not json.loads(cursor.read_bytes())["done"]


@pytest.mark.parametrize("script", ["head -c 1000 >&2", "exit 0"])
async def test_a_command_that_leaves_a_part_of_a_batch_has_not_taken_it(root, script):
    build(root, "aaaa", payloads(300))
    command = CommandDestination(["sh", "-c", script], "ndjson", integrity=False)
    cursor = Cursor(root.parent, "command", "ndjson")
    shipper = Shipper(root, cursor, command, Told().append, follow=False, first_seconds=0.001)
    with trio.fail_after(SECONDS), cursor.held():
        with pytest.raises(ShipFailed, match="before it had read its whole input"):
            await shipper.run()
        assert cursor.load("aaaa").position.records == 0


def command(root, *arguments):
    return [
        sys.executable, "-m", "nono_trio", "audit", "ship", "--audit-dir", str(root.parent),
        *arguments,
    ]  # fmt: skip


def test_kill_9_at_any_point_loses_nothing_and_what_comes_twice_has_the_same_id(root, receiver):
    """Killed right after a request came, or a little later, so in the midst of each step."""
    for number in range(3):
        build(root, f"s{number}", payloads(1300))
    arguments = command(root, "--all", "--to", receiver.url())
    wanted = set().union(*(expected_ids(f"s{number}", 1304) for number in range(3)))
    chance = random.Random(5)
    killed = 0
    for _ in range(KILLS):
        if {*receiver.taken} == wanted:
            break  # another run may have nothing to send
        before = receiver.requests
        with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as process:
            receiver.wait_for(lambda one, before=before: one.requests > before)
            with receiver.arrived:
                receiver.arrived.wait(chance.random() * 0.01)
            killed += process.poll() is None
            process.kill()
    assert killed
    assert subprocess.run(arguments, check=False, timeout=SECONDS).returncode == 0
    assert {*receiver.taken} == wanted
    for number in range(3):
        firsts = [uid for uid in dict.fromkeys(receiver.taken) if uid.startswith(f"s{number}/")]
        assert firsts == [f"s{number}/{n}" for n in range(1304)]
    assert len(receiver.taken) <= len(wanted) + KILLS * 512  # a batch for each kill


def test_sigterm_sends_what_is_there_and_ends_with_0(root, receiver):
    directory = running(root, "aaaa", payloads(1)[:-1])
    arguments = command(root, "--all", "--follow", "--json", "--to", receiver.url())
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
        receiver.wait_for(lambda one: "aaaa/2" in one.taken)
        append(directory, network(9, "deny", "last.test"))
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert receiver.taken == [f"aaaa/{n}" for n in range(4)]
    assert json.loads(output) == {"schema": 1, "sent": 4, "refused": 0, "faults": 0}


def test_a_second_signal_ends_it_while_the_receiver_does_not_answer(root, receiver):
    build(root, "aaaa")
    receiver.answers = ["slow"]
    arguments = command(root, "--all", "--follow", "--to", receiver.url())
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        receiver.wait_for(lambda one: one.requests)
        process.send_signal(signal.SIGTERM)
        for _ in range(SECONDS * 20):  # two signals at once may be one
            if process.poll() is not None:
                break
            process.send_signal(signal.SIGTERM)
            with receiver.arrived:
                receiver.arrived.wait(0.05)
        output = process.stderr.read()
    assert process.returncode == 0
    assert "not all is sent" in output
    receiver.release.set()
    with subprocess.Popen(command(root, "--all", "--to", receiver.url())) as process:
        assert process.wait(SECONDS) == 0
    assert {*receiver.taken} == expected_ids("aaaa", 7)


def test_a_command_gets_each_batch_and_its_exit_code_counts(root, tmp_path):
    build(root, "aaaa", payloads(600))
    script = tmp_path / "take"
    script.write_text(
        '#!/bin/sh\n[ -e "$1.failed" ] || { touch "$1.failed"; exit 3; }\ncat >> "$1"\n'
    )
    script.chmod(0o700)
    taken = tmp_path / "taken"
    arguments = command(root, "--all", "--to", f"cmd://{script} {taken}", "--format", "ndjson")
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0
    assert "take ended with exit code 3" in done.stderr
    ids = [json.loads(line)["id"] for line in taken.read_text().splitlines()]
    assert ids == [f"aaaa/{n}" for n in range(604)]


def test_a_secret_field_is_sent_and_in_no_output_or_argument(root, receiver):
    build(root, "aaaa")
    environment = os.environ | {"SHIP_TOKEN": "Bearer s3cr3t-s3cr3t"}
    arguments = command(
        root, "--all", "--to", receiver.url("/custom"), "--header", "authorization=env://SHIP_TOKEN"
    )
    receiver.answers = [401]
    done = subprocess.run(
        arguments, check=False, capture_output=True, text=True, timeout=SECONDS, env=environment
    )
    assert done.returncode == 0
    assert receiver.fields[-1]["authorization"] == "Bearer s3cr3t-s3cr3t"
    assert receiver.fields[-1][":path"] == "/custom"
    kept = "".join(one.read_text() for one in (root.parent / "ship").rglob("*") if one.is_file())
    assert "s3cr3t" not in done.stdout + done.stderr + kept
