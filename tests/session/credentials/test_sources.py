"""Where secrets come from: each kind of source, slow, failing, huge, malformed, rotating."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
import threading

import pytest
import trio
import trio.testing
from harness import has_ended, wait_until

from nono_trio.core.credentials.credential import parse_source
from nono_trio.core.credentials.secret import Secret
from nono_trio.session.credentials import command_line, readers, sources
from nono_trio.session.credentials.readers import SourceFailed, make_reader
from nono_trio.session.credentials.sources import SecretSource, read_all

SECRET = "ghp_0123456789abcdefghijABCDEFGHIJ456789"
BOUND = 60.0


def read(reference: str, environment: dict[str, str] | None = None) -> bytes:
    environment = {"PATH": os.environ["PATH"], **(environment or {})}
    return make_reader(parse_source("one", reference), environment).read().reveal()


def failure(reference: str, environment: dict[str, str] | None = None) -> SourceFailed:
    with pytest.raises(SourceFailed) as raised:
        read(reference, environment)
    assert SECRET not in raised.value.reason
    assert SECRET not in (raised.value.hint or "")
    return raised.value


def command(script: str) -> str:
    return f"cmd://{shlex.join([sys.executable, '-c', script])}"


def test_a_secret_shows_itself_to_nobody() -> None:
    import pickle

    secret = Secret(SECRET.encode())
    assert SECRET not in f"{secret} {secret!r} {[secret]} {SecretSource('env', readers)!r}"
    assert secret == Secret(SECRET.encode())
    assert secret != Secret(b"another")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        hash(secret)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_break_at_the_end_is_no_part_of_a_secret(end, tmp_path) -> None:
    path = tmp_path / "secret"
    path.write_bytes((SECRET + end).encode())
    assert read("env://ONE", {"ONE": SECRET + end}) == SECRET.encode()
    assert read(f"file://{path}") == SECRET.encode()
    assert read(command(f"print(end={SECRET + end!r})")) == SECRET.encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b" \r\n", "is empty"),
        (b"abcdefgh\0abcdefgh", "NUL"),
        (b"x" * (64 * 1024 + 1), "more than 65536 bytes"),
    ],
)
def test_what_is_no_secret_is_refused(data, reason, tmp_path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(data)
    assert reason in failure(f"file://{path}").reason
    assert failure(f"file://{path}").hint
    assert reason in failure(f"cmd://cat {path}").reason
    if b"\0" not in data:
        assert reason in failure("env://ONE", {"ONE": data.decode()}).reason


def test_a_missing_variable_is_named_with_what_helps() -> None:
    failed = failure("env://ONE_KEY", {"TWO_KEY": SECRET})
    assert failed.reason == "the variable ONE_KEY is not set"
    assert "export ONE_KEY" in (failed.hint or "")


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "loop"])
def test_only_a_regular_file_is_read(kind, tmp_path) -> None:
    path = tmp_path / "secret"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    assert "can't be read" in failure(f"file://{path}").reason


def test_a_file_is_found_in_the_home(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_text(SECRET)
    assert read("file://~/key") == SECRET.encode()


@pytest.mark.parametrize("how", ["rename", "write", "link"])
def test_a_rotated_file_is_read_again(how, tmp_path) -> None:
    path, other = tmp_path / "key", tmp_path / "other"
    real = tmp_path / "first"
    real.write_text("first-secret-value")
    other.write_text("other-secret-value")
    if how == "link":
        path.symlink_to(real)
    else:
        real.rename(path)
    reader = make_reader(parse_source("one", f"file://{path}"), {})
    assert reader.read().reveal() == b"first-secret-value"
    if how == "rename":
        other.rename(path)
    elif how == "write":
        path.write_text("other-secret-value")  # the same size and inode
    else:
        (tmp_path / "new").symlink_to(other)
        (tmp_path / "new").rename(path)
    assert reader.read().reveal() == b"other-secret-value"


def test_an_old_file_is_read_once(tmp_path, monkeypatch) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    monkeypatch.setattr(readers, "RACY_NANOSECONDS", -1)
    reader = make_reader(parse_source("one", f"file://{path}"), {})
    first = reader.read()
    assert reader.read() is first


def test_a_file_that_changes_all_the_time_is_an_error(tmp_path, monkeypatch) -> None:
    path = tmp_path / "key"
    path.write_text(SECRET)
    count = iter(range(1000))
    monkeypatch.setattr(readers, "stamp_of", lambda _descriptor: next(count))
    assert "changed while it was read" in failure(f"file://{path}").reason


def test_a_command_gets_no_input_no_terminal_and_starts_in_the_root() -> None:
    script = (
        "import os, sys;"
        " print(os.getcwd(), repr(sys.stdin.read()), os.getsid(0) == os.getpid(),"
        " sorted(int(n) for n in os.listdir('/proc/self/fd'))[-1] < 5)"
    )
    assert read(command(script)) == b"/ '' True True"


def test_the_words_of_a_command_are_not_read_by_a_shell() -> None:
    assert read("cmd://printf %s '$HOME;echo'") == b"$HOME;echo"


def test_a_command_that_is_not_there() -> None:
    failed = failure("cmd://no-such-program-at-all get key")
    assert failed.reason == "there is no command 'no-such-program-at-all'"


def test_a_failing_command_shows_what_it_said_without_control_characters() -> None:
    script = r"import sys; sys.stderr.write('\x1b[31mlocked\x07\n' * 200); sys.exit(3)"
    failed = failure(command(script))
    assert failed.reason.endswith("ended with exit code 3")
    assert failed.said.startswith("[31mlocked [31mlocked")
    assert failed.said.isprintable()
    assert len(failed.said) < 400


def test_a_failing_command_that_said_the_secret_is_not_quoted() -> None:
    script = f"import sys; print({SECRET!r}); sys.stderr.write('bad: {SECRET}'); sys.exit(1)"
    failed = failure(command(script))
    assert failed.reason.endswith("ended with exit code 1")
    assert not failed.said


def test_a_command_killed_by_a_signal() -> None:
    assert "signal 9" in failure(command("import os; os.kill(os.getpid(), 9)")).reason


def test_the_command_line_is_in_no_error() -> None:
    failed = failure(f"cmd://false --password {SECRET}")
    assert "--password" not in failed.reason


def ends(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: has_ended(pid), f"the end of process {pid}")


@pytest.mark.parametrize("what", ["slow", "endless"])
def test_a_slow_or_endless_command_is_killed_with_its_children(what, tmp_path, monkeypatch) -> None:
    if what == "slow":
        monkeypatch.setattr(command_line, "SECONDS", 2.0)  # a shell needs milliseconds
    note = tmp_path / "pids"
    rest = "wait" if what == "slow" else "exec yes"
    noted = f"setsid --fork sh -c 'echo $$ >>{note}; exec sleep 600'"  # it has lost its parent
    apart = f"env -i {noted.replace(' --fork', '')} &"  # it has another environment
    script = f"sleep 600 & echo $! >{note}; {apart} {noted};"
    script += f" until [ $(wc -l <{note}) = 3 ]; do sleep 0.01; done; {rest}"
    words = ["sh", "-c", script]
    reason = failure(f"cmd://{shlex.join(words)}").reason
    assert ("did not end within" if what == "slow" else "more than 65536 bytes") in reason
    pids = note.read_text().split()
    assert len(pids) == 3
    for pid in map(int, pids):
        ends(pid)


def failure_of_a_stopped_read(hangs: threading.Event, goes_on: threading.Event) -> SourceFailed:
    """Stop a reader whose read hangs: `stop` returns meanwhile, and the read fails after it."""
    reader = make_reader(parse_source("one", command("import time; time.sleep(600)")), os.environ)
    failures: list[SourceFailed] = []

    def fail() -> None:
        with pytest.raises(SourceFailed) as raised:
            reader.read()
        failures.append(raised.value)

    reading = threading.Thread(target=fail)
    stopping = threading.Thread(target=reader.stop)
    reading.start()
    try:
        assert hangs.wait(BOUND)
        stopping.start()
        stopping.join(BOUND / 4)
        assert not stopping.is_alive()
    finally:
        goes_on.set()
    reading.join(BOUND)
    return failures[0]


def test_a_command_that_can_not_be_killed_holds_no_end_up(monkeypatch) -> None:
    reaping, ends = threading.Event(), threading.Event()
    wait = subprocess.Popen.wait

    def hang(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        reaping.set()
        ends.wait(BOUND)
        return wait(process, timeout)

    monkeypatch.setattr(command_line, "SECONDS", 0.5)
    monkeypatch.setattr(subprocess.Popen, "wait", hang)
    assert "did not end within" in failure_of_a_stopped_read(reaping, ends).reason


def test_a_command_that_does_not_start_holds_no_end_up(monkeypatch) -> None:
    starting, goes_on, made = threading.Event(), threading.Event(), []
    start = subprocess.Popen

    def hang(*words: object, **settings: object) -> subprocess.Popen[bytes]:
        starting.set()
        goes_on.wait(BOUND)
        made.append(start(*words, **settings))  # type: ignore[call-overload]
        return made[0]

    monkeypatch.setattr(subprocess, "Popen", hang)
    monkeypatch.setattr(command_line, "START_SECONDS", 0.1)
    failed = failure_of_a_stopped_read(starting, goes_on)
    assert "the session has ended" in failed.reason
    assert made[0].returncode == -signal.SIGKILL


def test_what_a_command_leaves_behind_is_not_waited_for() -> None:
    script = (
        "import os, subprocess, sys; child = subprocess.Popen(['sleep', '600']); print(child.pid)"
    )
    pid = int(read(command(script)))
    assert not has_ended(pid)
    os.kill(pid, signal.SIGKILL)


def test_all_sources_are_read_at_the_same_time(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # Each of the two ends only if the other runs.
    writer = command(f"open({str(pipe)!r}, 'w').write('x'); print('secret-of-the-writer')")
    reader = command(f"open({str(pipe)!r}).read(); print('secret-of-the-reader')")
    made = [
        SecretSource("cmd", make_reader(parse_source("one", one), dict(os.environ)))
        for one in (writer, reader)
    ]
    assert read_all(made) == [None, None]
    assert [one.at_start.reveal() for one in made] == [
        b"secret-of-the-writer", b"secret-of-the-reader",
    ]  # fmt: skip


class Stuck:
    """A source that never answers."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def read(self) -> Secret:
        self.stopped.wait(BOUND)
        return Secret(b"late")

    def stop(self) -> None:
        self.stopped.set()


def test_a_source_that_never_answers_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr(sources, "MOST_SECONDS", 0.2)
    stuck = Stuck()
    (failed,) = read_all([SecretSource("keyring", stuck)])
    assert failed is not None
    assert "did not answer within" in failed.reason
    stuck.stop()


def test_a_program_that_is_interrupted_leaves_no_command_behind(tmp_path) -> None:
    note = tmp_path / "pid"
    script = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    made = SecretSource("cmd", make_reader(parse_source("one", command(script)), dict(os.environ)))

    def interrupt() -> None:
        wait_until(lambda: note.exists() and bool(note.read_text()), "the command runs")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        read_all([made])
    thread.join(BOUND)
    ends(int(note.read_text()))


class Counted:
    """A source that gives a new secret for each read, once `go` is set."""

    def __init__(self) -> None:
        self.reads = 0
        self.go = threading.Event()
        self.go.set()
        self.fails = False

    def read(self) -> Secret:
        self.reads += 1
        number = self.reads
        assert self.go.wait(BOUND)
        if self.fails:
            raise SourceFailed("it is locked")
        return Secret(b"secret %d" % number)

    def stop(self) -> None:
        pass


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counted() -> tuple[SecretSource, Counted, Clock]:
    reader, clock = Counted(), Clock()
    source = SecretSource("cmd", reader, 100, clock)
    assert read_all([source]) == [None]
    return source, reader, clock


async def settled(source: SecretSource, wanted: bytes) -> None:
    with trio.fail_after(BOUND):
        while (await source.current()).reveal() != wanted:
            await trio.lowlevel.checkpoint()


async def test_a_secret_is_kept_then_refreshed_ahead_then_waited_for(counted) -> None:
    source, reader, clock = counted
    clock.now += 79
    assert (await source.current()).reveal() == b"secret 1"
    assert reader.reads == 1
    clock.now += 2
    assert (await source.current()).reveal() == b"secret 1"  # the new one is asked for
    await settled(source, b"secret 2")
    assert reader.reads == 2
    clock.now += 101
    assert (await source.current()).reveal() == b"secret 3"


async def test_many_who_wait_share_one_read_and_a_cancelled_one_does_not_end_it(counted) -> None:
    source, reader, clock = counted
    reader.go.clear()
    clock.now += 101
    got: list[bytes] = []

    async def ask() -> None:
        got.append((await source.current()).reveal())

    with trio.fail_after(BOUND):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(ask)
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            for _ in range(5):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            reader.go.set()
    assert got == [b"secret 2"] * 5
    assert reader.reads == 2


async def test_a_failed_refresh_keeps_the_old_one_until_its_time_ends(counted) -> None:
    source, reader, clock = counted
    reader.fails = True
    clock.now += 90
    assert (await source.current()).reveal() == b"secret 1"
    with trio.fail_after(BOUND):
        while reader.reads < 2:
            await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    clock.now += 5
    assert (await source.current()).reveal() == b"secret 1"
    clock.now += 6
    with pytest.raises(SourceFailed, match="it is locked"):
        await source.current()
    tried = reader.reads
    with pytest.raises(SourceFailed, match="it is locked"):
        await source.current()
    assert reader.reads == tried  # it rests
    clock.now += 3
    reader.fails = False
    assert (await source.current()).reveal().startswith(b"secret")


async def test_a_file_is_rotated_while_it_is_used_and_missing_for_a_while(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text("first-secret-value")
    source = SecretSource("file", make_reader(parse_source("one", f"file://{path}"), {}))
    assert read_all([source]) == [None]
    assert (await source.current()).reveal() == b"first-secret-value"
    path.unlink()
    with pytest.raises(SourceFailed, match="can't be read"):
        await source.current()
    path.write_text("second-secret-value")
    path.chmod(stat.S_IRUSR)
    assert (await source.current()).reveal() == b"second-secret-value"


KEYRING = """
import keyring.backend, keyring.errors, keyring

class Of(keyring.backend.KeyringBackend):
    priority = 1
    def get_password(self, service, user):
        if service == "locked":
            raise keyring.errors.KeyringLocked("with a SECRET")
        if service == "broken":
            raise RuntimeError("with a SECRET")
        return {"one": "a-password-of-one"}.get(service)
    def set_password(self, service, user, password): ...
    def delete_password(self, service, user): ...
"""


@pytest.fixture
def keyring_backend():
    keyring = pytest.importorskip("keyring")
    before = keyring.get_keyring()
    found: dict[str, object] = {}
    exec(KEYRING, found)
    keyring.set_keyring(found["Of"]())
    yield keyring
    keyring.set_keyring(before)


def test_the_keyring_is_asked(keyring_backend) -> None:
    assert read("keyring://one/me") == b"a-password-of-one"
    failed = failure("keyring://two/a b")
    assert failed.reason == "the keyring has no password for 'two' and 'a b'"
    assert failed.hint == "keyring set two 'a b'"
    assert failure("keyring://locked/me").reason == "the keyring is locked"
    assert failure("keyring://broken/me").reason == "the keyring failed: RuntimeError"


def test_without_a_backend_or_the_library_there_is_a_hint(keyring_backend, monkeypatch) -> None:
    from keyring.backends import fail

    keyring_backend.set_keyring(fail.Keyring())
    assert failure("keyring://one/me").reason == "there is no keyring on this machine"
    monkeypatch.setitem(sys.modules, "keyring", None)
    failed = failure("keyring://one/me")
    assert failed.reason == "keyring:// needs the library keyring"
    assert failed.hint == "pip install 'nono-trio[keyring]'"
