#!/usr/bin/env python3
"""Start Ceph's S3 server on loopback, and read sessions there: see try_radosgw, which starts this.

One monitor, one object store in memory, one gateway, each a process that ends with this one. The
answers of `audit verify` and the bytes of `audit export` must be those of the same files here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import msgspec

from nono_trio.audit.verify.many import verify_one, verify_root
from nono_trio.audit.verify.session import verify
from nono_trio.cli.main import exit_code

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))

import sealed_session as made

SECONDS = 120
KEYS = ("trial-access-key", "trial-secret-key")
CONFIGURATION = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{monitor}
public addr = 127.0.0.1
ms bind msgr1 = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 1073741824
run dir = {directory}
admin socket =
log file = {directory}/$name.log
pid file =
mon data = {directory}/mon
osd data = {directory}/osd
keyring = {directory}/keyring
mon cluster log file = {directory}/cluster.log
crash dir = {directory}
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw data = {directory}
rgw dynamic resharding = false
{libraries}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def own_libraries() -> str:
    """Lines for a Ceph whose packages were unpacked into a directory (CEPH_TREE) instead."""
    tree = os.environ.get("CEPH_TREE")
    found = [*Path(tree, "usr/lib").glob("*/ceph")] if tree else []
    if not found:
        return ""
    classes = found[0].with_name("rados-classes")
    return f"erasure code dir = {found[0]}/erasure-code\nosd class dir = {classes}"


class Cluster:
    """A monitor, an object store and a gateway in one directory."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._stack = stack
        self._file = directory / "ceph.conf"
        self.gateway = free_port()
        self._monitor = free_port()
        self._fsid = str(uuid.uuid4())
        self._file.write_text(
            CONFIGURATION.format(
                fsid=self._fsid,
                monitor=self._monitor,
                gateway=self.gateway,
                directory=directory,
                libraries=own_libraries(),
            )
        )

    def call(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [program, "-c", str(self._file), *words],
            check=False, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        if done.returncode != 0:
            raise SystemExit(f"{program} {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def start(self, program: str, *words: str) -> None:
        log = self._stack.enter_context((self.directory / f"{program}.out").open("wb"))
        process = subprocess.Popen(
            [program, "-c", str(self._file), "-f", *words], stdout=log, stderr=log
        )
        self._stack.callback(end, process)

    def run(self) -> None:
        """Start all three, and make a user."""
        monitors = str(self.directory / "monitors")
        address = f"[v2:127.0.0.1:{self._monitor}]"
        made_map = [
            "monmaptool",
            "--create",
            "--fsid",
            self._fsid,
            "--addv",
            "a",
            address,
            monitors,
        ]
        subprocess.run(made_map, check=True, capture_output=True)
        keyring = str(self.directory / "keyring")
        for number, name in enumerate(("mon.", "client.admin", "osd.0")):
            capabilities = [word for of in ("mon", "osd") for word in ("--cap", of, "allow *")]
            create = ["--create-keyring"] if number == 0 else []
            words = ["ceph-authtool", keyring, *create, "--gen-key", "-n", name, *capabilities]
            subprocess.run(words, check=True, capture_output=True)
        self.call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        self.start("ceph-mon", "-i", "a")
        own = str(uuid.uuid4())
        self.call("ceph", "--connect-timeout", str(SECONDS), "osd", "new", own)
        (self.directory / "osd").mkdir()
        self.call("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", own)
        self.start("ceph-osd", "-i", "0")
        words = ["user", "create", "--uid", "trial", "--display-name", "trial"]
        self.call("radosgw-admin", *words, "--access-key", KEYS[0], "--secret-key", KEYS[1])
        self.start("radosgw", "-n", "client.admin")


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def bucket_at(endpoint: str):
    """Make a bucket as soon as the gateway answers; returns its file system and name."""
    import s3fs

    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEYS[0],
        "AWS_SECRET_ACCESS_KEY": KEYS[1],
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    files = s3fs.S3FileSystem(skip_instance_cache=True)
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            files.mkdir("archive")
        except Exception as error:  # the gateway is not there yet
            if time.monotonic() > deadline:
                raise SystemExit(f"the gateway gave no bucket: {error}") from error
            time.sleep(1)
        else:
            return files, "archive"


def compare(local: Path, files, bucket: str) -> None:
    """Compare answers and exports at the store with those of the files."""
    files.put(f"{local}/", f"{bucket}/audit/", recursive=True)
    url = f"s3://{bucket}/audit"
    here = {answer.session_id: answer for answer in verify_root(local)}
    there = {answer.session_id: answer for answer in verify_root(url)}
    assert here.keys() == there.keys(), (here, there)
    for name, answer in here.items():
        assert msgspec.structs.replace(there[name], path=answer.path) == answer, there[name]
        assert there[name].path == f"{url}/{name}"
    print(f"verify --all: {len(here)} sessions, the same answers")
    for form in ("ndjson", "ocsf"):
        outputs = [local.parent / f"{form}.{place}" for place in ("here", "there")]
        for output, place in zip(outputs, (str(local.parent), f"s3://{bucket}"), strict=True):
            words = ["audit", "export", made_id(here), "--audit-dir", place, "--format", form]
            assert exit_code([*words, "-o", str(output)]) == 0
        assert outputs[0].read_bytes() == outputs[1].read_bytes() != b""
    print("export: the same bytes")
    name = made_id(here)
    log = f"{bucket}/audit/{name}/audit-events.ndjson"
    data = files.cat_file(log)
    files.pipe_file(log, data.replace(b"evil.test", b"good.test", 1))
    assert verify_one(f"{url}/{name}").verdict == "tampered"
    files.rm(f"{bucket}/audit/{name}", recursive=True)
    assert verify_one(f"{url}/{name}").verdict == "missing"
    assert verify(local / name).verdict == "verified"
    print("a changed byte: tampered; a session that is gone: missing")
    nothing = verify_one(f"s3://no-such-bucket/{name}")
    assert "there is no bucket" in nothing.notes[0], nothing
    os.environ["AWS_SECRET_ACCESS_KEY"] = "another"
    type(files).clear_instance_cache()
    refused = verify_one(f"{url}/{name}")
    assert refused.verdict == "unreadable"
    assert "the store refuses these credentials" in refused.notes[-1], refused
    print("no bucket, wrong credentials: told, with a hint")


def made_id(answers) -> str:
    return next(name for name, answer in answers.items() if answer.verdict == "verified")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all three end too
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster(directory, stack)
        print(cluster.call("radosgw", "--version").strip())
        try:
            cluster.run()
            local = directory / "state" / "audit"
            for number in range(20):
                made.build(local, f"{number:016x}", flows=[made.flow(3)])
            made.unsealed(local, "00000000deadbeef")
            compare(local, *bucket_at(f"http://127.0.0.1:{cluster.gateway}"))
        except BaseException:
            for log in directory.glob("*.out"):
                print(f"== {log.name}\n{log.read_text()[-2000:]}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
