"""Real HTTP/2 clients through the proxy: curl, Node, and gRPC with its own server."""

from __future__ import annotations

import datetime
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from http2_peers import multiplexing
from looked_into import HOST, REAL, authority, interception
from running_proxy import BOUND, TOKEN, running

from nono_trio.testing import FakeResolver, LoopbackDialler

RULES = (f"allow GET,POST https://{HOST}/ok/**",)


async def outputs(argv: list[str]) -> list[str]:
    with trio.fail_after(BOUND):
        done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
    return [*done.stdout.decode().split(), done.stderr.decode()]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(tmp_path):
    if "HTTP2" not in await outputs(["curl", "-V"]):
        pytest.skip("curl is built without HTTP/2")
    (tmp_path / "ca.pem").write_bytes(authority("session").pem())
    (tmp_path / "body").write_bytes(bytes(1_000_000))
    async with multiplexing(*RULES) as at:
        common = [
            "curl", "-s", "--http2", "--cacert", str(tmp_path / "ca.pem"),
            "-x", f"http://nono:{TOKEN}@127.0.0.1:{at.at.proxy.port}", "-o", "/dev/null",
            "-w", "%{http_version} %{http_code} %{size_download}\n",
        ]  # fmt: skip
        assert (await outputs([*common, f"https://{HOST}/ok/bytes/1000000"]))[:3] == [
            "2", "200", "1000000",
        ]  # fmt: skip
        assert (await outputs([*common, f"https://{HOST}/no"]))[:2] == ["2", "403"]
        upload = [*common, "-H", "Expect:", "--data-binary", f"@{tmp_path / 'body'}"]
        assert (await outputs([*upload, f"https://{HOST}/ok/sink"]))[:3] == ["2", "200", "7"]
        assert [decision for _, _, decision in at.requests()] == ["allow", "deny", "allow"]
        assert at.origin.requests[1].body == bytes(1_000_000)


NODE = """
const http2 = require('http2'), net = require('net'), tls = require('tls'), fs = require('fs');
const [port, token, ca, host] = process.argv.slice(1);
const raw = net.connect(Number(port), '127.0.0.1', () => raw.write(
  `CONNECT ${host}:443 HTTP/1.1\\r\\nHost: ${host}:443\\r\\n` +
  `Proxy-Authorization: Basic ${Buffer.from('nono:' + token).toString('base64')}\\r\\n\\r\\n`));
raw.once('data', () => {
  const secure = tls.connect({socket: raw, servername: host, ALPNProtocols: ['h2'],
                              ca: fs.readFileSync(ca)}, () => {
    const session = http2.connect(`https://${host}`, {createConnection: () => secure});
    let left = 20;
    for (let one = 0; one < 20; one++) {
      const stream = session.request({':path': one % 2 ? '/ok/bytes/70000' : '/no'});
      let status, size = 0;
      stream.on('response', head => { status = head[':status']; });
      stream.on('data', data => { size += data.length; });
      stream.on('end', () => {
        console.log(one % 2 ? `${status}:${size}` : status);
        if (--left === 0) session.close(() => process.exit(0));
      });
    }
  });
});
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
async def test_node(tmp_path):
    (tmp_path / "ca.pem").write_bytes(authority("session").pem())
    async with multiplexing(*RULES) as at:
        argv = ["node", "-e", NODE, str(at.at.proxy.port), TOKEN, str(tmp_path / "ca.pem"), HOST]
        found = (await outputs(argv))[:20]
        assert sorted(found) == ["200:70000"] * 10 + ["403"] * 10
        assert len(at.origin.requests) == 10


async def test_grpc_unary_and_streaming():
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    one, leaf_key = authority("origin"), ec.generate_private_key(ec.SECP256R1())
    leaf = one.sign_leaf(HOST, leaf_key.public_key(), datetime.datetime.now(datetime.UTC))
    pem = serialization.Encoding.PEM
    secret = leaf_key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method.endswith("Both"):
                return grpc.stream_stream_rpc_method_handler(both)
            return grpc.unary_unary_rpc_method_handler(unary)

    def unary(request, context):
        if request == b"fail":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        return request * 2

    def both(requests, _):
        for request in requests:
            yield request + b"!"

    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    credentials = grpc.ssl_server_credentials([(secret, leaf.public_bytes(pem) + one.pem())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()

    def ask(proxy_port: int) -> list[object]:
        options = [("grpc.http_proxy", f"http://nono:{TOKEN}@127.0.0.1:{proxy_port}")]
        roots = grpc.ssl_channel_credentials(authority("session").pem())
        with grpc.secure_channel(f"{HOST}:443", roots, options=options) as channel:
            found: list[object] = [channel.unary_unary("/t.T/One")(b"x" * 100_000, timeout=BOUND)]
            for method, message in (("One", b"fail"), ("Other", b"x" * 1_000_000)):
                with pytest.raises(grpc.RpcError) as raised:
                    channel.unary_unary(f"/t.T/{method}")(message, timeout=BOUND)
                found.append((raised.value.code(), raised.value.details()))
            found.append([*channel.stream_stream("/t.T/Both")(iter([b"a", b"b"]), timeout=BOUND)])
        return found

    try:
        async with running(
            [HOST],
            resolver=FakeResolver({HOST: [[REAL]]}),
            dialler=LoopbackDialler(port),
            endpoints=[f"allow POST https://{HOST}/t.T/One", f"allow POST https://{HOST}/t.T/Both"],
            interception=interception(),
        ) as proxy:
            doubled, failed, denied, echoed = await trio.to_thread.run_sync(ask, proxy.port)
            assert doubled == b"x" * 200_000
            assert failed == (grpc.StatusCode.NOT_FOUND, "nothing there")
            url = f"https://{HOST}/t.T/Other"
            assert denied == (
                grpc.StatusCode.PERMISSION_DENIED,
                f"nono-trio: POST {url} fits no endpoint rule of the host\n"
                f"hint: allow it with --allow-endpoint 'POST {url}'",
            )
            assert echoed == [b"a!", b"b!"]
            paths = [(e.path, e.decision) for e in proxy.recorder.events if e.path]
            assert paths == [
                ("/t.T/One", "allow"), ("/t.T/One", "allow"), ("/t.T/Other", "deny"),
                ("/t.T/Both", "allow"),
            ]  # fmt: skip
    finally:
        server.stop(None)
