"""Sessions at URLs: the answers are those of the files, and what changes meanwhile is told."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import fsspec
import msgspec
import pytest
import sealed_session as made
import signed_session as signed
from s3_server import running_s3

from nono_trio.audit import ledger, remote, store
from nono_trio.audit.ledger import LEDGER
from nono_trio.audit.search.query import SearchQuery
from nono_trio.audit.search.searched_sessions import SearchReport, searched_sessions
from nono_trio.audit.verify import many
from nono_trio.audit.verify.session import verify
from nono_trio.cli.main import exit_code
from nono_trio.errors import LogUnreadable, UsageError

OTHER, CRASHED = "fedcba9876543210", "00000000deadbeef"


@pytest.fixture(scope="module")
def s3():
    with running_s3() as client:
        yield client


@pytest.fixture
def bucket(s3, monkeypatch):
    """A fresh bucket, and the variables by which its library finds the server."""
    for name, value in s3.variables.items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture(scope="module")
def audit(tmp_path_factory):
    """An audit directory with a sealed session, a signed one and a crashed one."""
    root = tmp_path_factory.mktemp("archive") / "audit"
    made.build(root, OTHER, flows=[made.flow(3)])
    made.unsealed(root, CRASHED)
    signed.sealed(root, signed.signer())
    return root


def upload(files, audit, place):
    for path in audit.rglob("*"):
        if path.is_file() and path.stat().st_size:
            files.pipe_file(f"{place}/{path.relative_to(audit)}", path.read_bytes())
        elif path.is_file():
            files.touch(f"{place}/{path.relative_to(audit)}")


@pytest.fixture
def memory(audit):
    files = fsspec.filesystem("memory")
    upload(files, audit, "/archive/audit")
    yield files
    files.rm("/archive", recursive=True)


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    """The temporary directory, in which nothing may be left."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert [*place.iterdir()] == []


def facts(answer):
    """An answer without its place."""
    return msgspec.structs.replace(answer, path="")


def told(capsys, *words):
    code = exit_code(["audit", "verify", *words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_store_s_answers_are_those_of_the_files(audit, bucket, capsys):
    upload(bucket.files, audit, f"{bucket.name}/team/audit")
    url = f"s3://{bucket.name}/team"
    for session in (OTHER, CRASHED, signed.ID):
        answer = many.verify_one(f"{url}/audit/{session}")
        assert facts(answer) == facts(verify(audit / session))
        assert answer.path == f"{url}/audit/{session}"
    code, out, _ = told(capsys, "--all", "--json", "--audit-dir", url)
    assert (code, {json.loads(line)["verdict"] for line in out.splitlines()}) == (
        6, {"verified", "crashed"},
    )  # fmt: skip
    assert told(capsys, OTHER, "--audit-dir", url)[0] == 0
    code, out, _ = told(capsys, f"{url}/audit/{LEDGER}")
    assert (code, out.split()[0]) == (0, "verified")


def test_what_is_missing_and_what_was_changed_is_told(audit, bucket, capsys):
    upload(bucket.files, audit, f"{bucket.name}/audit")
    url = f"s3://{bucket.name}"
    log = f"{bucket.name}/audit/{OTHER}/{store.LOG}"
    data = (audit / OTHER / store.LOG).read_bytes()
    bucket.files.pipe_file(log, data.replace(b"evil.test", b"good.test", 1))
    answer = many.verify_one(f"{url}/audit/{OTHER}")
    assert (answer.verdict, answer.first_bad.sequence) == ("tampered", 4)
    bucket.files.pipe_file(log, data)
    bucket.files.rm(f"{bucket.name}/audit/{OTHER}/{store.SUMMARY}")
    assert many.verify_one(f"{url}/audit/{OTHER}").verdict == "tampered"
    bucket.files.rm(log)
    assert many.verify_one(f"{url}/audit/{OTHER}").verdict == "tampered"
    assert "audit-events.ndjson is missing" in many.verify_one(f"{url}/audit").notes[0]
    bucket.files.rm(f"{bucket.name}/audit/{OTHER}", recursive=True)
    assert many.verify_one(f"{url}/audit/{OTHER}").verdict == "missing"
    code, out, _ = told(capsys, "--all", "--audit-dir", url)
    assert (code, f"missing     {OTHER}" in out) == (1, True)
    bucket.files.rm(f"{bucket.name}/audit/{LEDGER}")
    answer = many.verify_one(f"{url}/audit/{signed.ID}")
    assert (answer.verdict, "ledger.ndjson is missing" in answer.notes[0]) == ("unreadable", True)
    assert f"{url}/audit/ledger.ndjson" in answer.notes[0]


def test_an_object_below_a_file_hides_no_file(audit, bucket, capsys):
    upload(bucket.files, audit, f"{bucket.name}/audit")
    url = f"s3://{bucket.name}"
    expected = told(capsys, "--all", "--audit-dir", url)
    hiding = (LEDGER, f"{OTHER}/{store.SESSION}", f"{CRASHED}/{store.POLICY}")
    for name in hiding:
        bucket.files.pipe_file(f"{bucket.name}/audit/{name}/x", b"x")
    assert told(capsys, "--all", "--audit-dir", url) == expected
    bucket.files.pipe_file(f"{bucket.name}/audit/{CRASHED}", b"x")
    assert told(capsys, "--all", "--audit-dir", url) == expected


def test_errors_have_a_hint(s3, bucket, monkeypatch, capsys):
    assert told(capsys, f"s3://no-such-bucket-here/{OTHER}")[0] == 2
    answer = many.verify_one(f"s3://no-such-bucket-here/{OTHER}")
    assert "there is no bucket 'no-such-bucket-here'" in answer.notes[0]
    assert "check its name" in answer.notes[1]
    nothing = many.verify_one(f"s3://{bucket.name}/audit/{OTHER}")
    assert "does not exist" in nothing.notes[0]
    s3.refuse(True)
    try:
        answer = many.verify_one(f"s3://{bucket.name}/audit/{OTHER}")
    finally:
        s3.refuse(False)
    assert "AWS_PROFILE" in answer.notes[1]
    assert (
        "there is nothing at" in told(capsys, "--all", "--audit-dir", f"s3://{bucket.name}/no")[1]
    )
    latest = many.verify_one(f"s3://{bucket.name}/audit/latest")
    assert "expected a URL that ends in a session's id" in latest.notes[0]
    assert many.verify_one("simplecache::s3://b/c").verdict == "unreadable"
    for url in ("s3://", "s3://b", "http://a.test/x", f"ftp://a.test/{OTHER}"):
        answer = many.verify_one(url)
        assert (answer.verdict, f"got {url!r}" in answer.notes[0]) == ("unreadable", True)
    secret = many.verify_one(f"s3://key:hunter2@{bucket.name}/{OTHER}")
    assert "password" in secret.notes[0]
    assert "hunter2" not in "".join(secret.notes)


@pytest.mark.parametrize(("url", "hint"), [("s3://b/c", "[remote]'"), ("gs://b/c", "gcsfs")])
def test_a_missing_package_is_named(monkeypatch, capsys, url, hint):
    def none(*_arguments, **_options):
        raise ImportError("Install it")

    monkeypatch.setattr("fsspec.core.url_to_fs", none)
    with pytest.raises(UsageError, match="a package that it needs is missing") as raised:
        remote.RemoteRoot(url)
    assert raised.value.hint.endswith(hint)
    code, out, _ = told(capsys, "--all", "--audit-dir", url)
    assert (code, raised.value.hint in out) == (2, True)


def test_what_changes_while_it_is_read_is_told(memory, monkeypatch):
    log = f"/archive/audit/{OTHER}/{store.LOG}"
    kept, opened = memory.cat_file(log), type(memory).open
    changes = {
        "as long": lambda: memory.pipe_file(log, kept[::-1]),
        "gone": lambda: memory.rm(log),
        "another came": lambda: memory.pipe_file(f"/archive/audit/{OTHER}/{store.BUNDLE}", b"{}"),
    }
    for name, change in changes.items():
        memory.pipe_file(log, kept)

        def change_then_open(self, path, *arguments, _change=change, **options):
            if path.endswith(store.POLICY):  # it is read after the log
                _change()
            return opened(self, path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(memory), "open", change_then_open)
            answer = many.verify_one(f"memory://archive/audit/{OTHER}")
        assert (answer.verdict, "changed while it was read" in answer.notes[0]) == (
            "unreadable", True,
        ), name  # fmt: skip


def test_a_file_that_is_longer_or_shorter_than_listed_is_told(memory, monkeypatch):
    listed = type(memory).ls

    def lying_by(more):
        def ls(self, path, detail=True, **options):
            return [
                {**one, "size": one["size"] + more * one["name"].endswith(store.LOG)}
                for one in listed(self, path, detail, **options)
            ]

        return ls

    for more, said in (
        (-1, "changed while it was read"),
        (1, "changed while it was read"),
        (2**60, "do not fit into"),
    ):
        monkeypatch.setattr(type(memory), "ls", lying_by(more))
        assert said in many.verify_one(f"memory://archive/audit/{OTHER}").notes[0]


def test_only_the_files_of_a_session_are_fetched(memory):
    memory.pipe_file(f"/archive/audit/{OTHER}/../../../evil", b"x")
    memory.pipe_file(f"/archive/audit/{OTHER}/sitecustomize.py", b"x")
    memory.pipe_file(f"/archive/audit/{OTHER}/deeper/{store.LOG}", b"x")
    with remote.RemoteRoot("memory://archive/audit") as root, root.session(OTHER) as directory:
        assert directory.stat().st_mode & 0o777 == root.directory.stat().st_mode & 0o777 == 0o700
        assert {path.name for path in directory.iterdir()} <= {*remote.SESSION_FILES}
    assert not root.directory.exists()
    for name in ("..", ".", "a b", "x/y"):
        with remote.RemoteRoot("memory://archive/audit") as root, pytest.raises(UsageError):
            root.session(name).__enter__()


def test_a_file_alone_is_judged_as_a_file(memory, audit):
    memory.pipe_file("/archive/exported.ndjson", (audit / OTHER / store.LOG).read_bytes())
    answer = many.verify_one("memory://archive/exported.ndjson")
    alone = shutil.copy(audit / OTHER / store.LOG, audit.parent / "exported.ndjson")
    assert facts(answer) == facts(verify(Path(alone)))
    assert many.verify_one("memory://archive/nothing.ndjson").verdict == "unreadable"
    beside = many.verify_one(f"memory://archive/audit/{OTHER}/{store.LOG}")
    assert beside.verdict == "verified"  # a file of a session means the session, as with a path


def test_an_archive_is_judged_as_an_archive(memory, audit, tmp_path, capsys):
    archive = tmp_path / "session.tar"
    place = ["--audit-dir", str(audit.parent)]
    assert exit_code(["audit", "export-session", OTHER, "-o", str(archive), *place]) == 0
    memory.pipe_file("/archive/session.tar", archive.read_bytes())
    capsys.readouterr()
    code, here, _ = told(capsys, str(archive), "--json")
    assert code == 0
    assert told(capsys, "memory://archive/session.tar", "--json") == (
        0, here.replace(str(archive), "memory://archive/session.tar"), "",
    )  # fmt: skip


def test_a_file_url_is_a_path(audit, capsys):
    assert many.verify_one(f"file://{audit}/{OTHER}").verdict == "verified"
    assert told(capsys, f"file://{audit}/{OTHER}")[0] == 0
    assert told(capsys, "--all", "--audit-dir", f"file://{audit.parent}")[0] == 6
    assert exit_code(["audit", "export", f"file://{audit}/{OTHER}"]) == 0
    assert capsys.readouterr().out.count("\n") == 8
    with pytest.raises(UsageError):
        remote.as_path("file://host/x")


@pytest.mark.parametrize(
    "command", [["audit", "show", "latest"], ["run"], ["keys", "generate"], ["audit", "ship"]]
)
def test_commands_that_need_a_directory_take_no_url(tmp_path, monkeypatch, capsys, command):
    """`run` made a directory `s3:` here, where nobody looks for the log."""
    monkeypatch.chdir(tmp_path)
    url = ["--audit-dir", "s3://b"]
    more = {"run": ["--", "true"], "audit ship": ["--all", "--to", "./x"]}
    assert exit_code([*command, *url, *more.get(" ".join(command), [])]) == 2
    assert "expected a directory, got the URL s3://b" in capsys.readouterr().err
    assert not (tmp_path / "s3:").exists()


def test_each_session_is_in_an_audit_directory_of_its_own(memory):
    found = []
    for directory in remote.SessionsAt("memory://archive/audit"):
        assert (directory.parent / LEDGER).exists()
        found.append([session.session_id for session in store.sessions(directory.parent)])
        assert remote.as_asked(f"in {directory}:") == f"in memory://archive/audit/{directory.name}:"
    assert found == [[CRASHED], [signed.ID], [OTHER]]
    assert not directory.parent.exists()
    assert remote.as_asked(str(directory)) == str(directory)


@pytest.mark.parametrize("form", ["ndjson", "ocsf", "otlp"])
def test_an_export_is_that_of_the_files(memory, audit, tmp_path, form):
    written = []
    for number, words in enumerate(
        (
            [OTHER, "--audit-dir", str(audit.parent)],
            [f"memory://archive/audit/{OTHER}"],
            [OTHER, "--audit-dir", "memory://archive"],
        )
    ):
        output = tmp_path / str(number)
        assert exit_code(["audit", "export", *words, "--format", form, "-o", str(output)]) == 0
        written.append(output.read_bytes())
    assert written[0]
    assert written[0] == written[1] == written[2]


@pytest.mark.parametrize("command", ["search", "hosts"])
def test_a_search_is_that_of_the_files(memory, audit, capsys, command):
    told = []
    for place in (str(audit.parent), "memory://archive"):
        words = ["audit", command, "--host", "evil.test", "--json", "--audit-dir", place]
        assert exit_code(words) == 0
        told.append(sorted(capsys.readouterr().out.splitlines()))
        assert exit_code([*words, "--session", OTHER]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[2] != []
    assert told[1] == told[3] != ""
    url = f"memory://archive/audit/{OTHER}"
    assert exit_code(["audit", command, "--host", "evil.test", "--json", "--session", url]) == 0
    assert capsys.readouterr().out == told[1]
    memory.rm(f"/archive/audit/{OTHER}", recursive=True)
    assert exit_code(["audit", command, "--audit-dir", "memory://archive"]) == 0
    assert f"1 session ({OTHER}) is gone, and the ledger knows" in capsys.readouterr().err


def test_a_search_at_a_url_reads_the_ledger_once_for_all(memory, monkeypatch):
    asked, verify = [], ledger.verify

    def noted(root, *session_id):
        asked.append(session_id)
        return verify(root, *session_id)

    monkeypatch.setattr(ledger, "verify", noted)
    sessions = islice(remote.SessionsAt("memory://archive/audit"), 3)
    found = searched_sessions(Path(), SearchQuery(), SearchReport(), sessions)
    assert {one.stored.session_id for one in found} == {OTHER, CRASHED, signed.ID}
    assert asked.count(()) == 1
    assert {*asked} <= {(), (CRASHED,)}  # it has no line, so the ledger may be an old one


def test_the_newest_at_a_url_are_not_known(memory, capsys):
    assert exit_code(["audit", "search", "-n", "1", "--audit-dir", "memory://archive"]) == 2
    assert "hint: " in capsys.readouterr().err


def test_a_fault_in_an_export_names_the_url(memory, tmp_path, capsys):
    log = f"/archive/audit/{OTHER}/{store.LOG}"
    memory.pipe_file(log, memory.cat_file(log).replace(b"evil.test", b"good.test", 1))
    words = ["audit", "export", "--all", "--audit-dir", "memory://archive"]
    assert exit_code([*words, "-o", str(tmp_path / "all")]) == 1
    assert f"memory://archive/audit/{OTHER}" in capsys.readouterr().err
    url = f"memory://archive/audit/{OTHER}"
    assert exit_code(["audit", "export", url, "-o", str(tmp_path / "one")]) == 1
    assert f"`nono-trio audit verify {url}`" in capsys.readouterr().err
    missing = "memory://archive/audit/00000000000000aa"
    assert exit_code(["audit", "export", missing, "-o", str(tmp_path / "none")]) == 2
    assert f"{missing} does not exist" in capsys.readouterr().err


def test_a_copy_of_a_file_is_not_in_memory(tmp_path, monkeypatch, memory):
    """A file passes through in pieces: none is longer than PIECE."""
    big = tmp_path / "big"
    big.write_bytes(b"x" * (3 * remote.PIECE + 5))
    sizes = []
    opened = type(memory).open

    def watched(self, *arguments, **options):
        file = opened(self, *arguments, **options)
        read = file.read
        file.read = lambda size=-1: sizes.append(size) or read(size)
        return file

    memory.pipe_file("/archive/big.bin", big.read_bytes())
    monkeypatch.setattr(type(memory), "open", watched)
    with remote.RemoteRoot("memory://archive") as root, root.file("big.bin") as copy:
        assert copy.read_bytes() == big.read_bytes()
    assert set(sizes) == {remote.PIECE}


def test_a_whole_store_over_an_executor(memory):
    with ThreadPoolExecutor(2) as pool:
        answers = [*many.verify_root("memory://archive/audit", pool, sessions_a_task=1)]
    assert {answer.session_id: answer.verdict for answer in answers} == {
        OTHER: "verified", CRASHED: "crashed", signed.ID: "verified",
    }  # fmt: skip


def test_a_root_that_can_not_be_listed_is_an_error():
    with pytest.raises(UsageError):
        [*many.verify_root("ftp://a.test/audit")]
    with pytest.raises(LogUnreadable, match="there is no bucket"):
        [*many.verify_root("memory://nothing-there")]
