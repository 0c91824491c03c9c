"""TLS of an endpoint: only a certificate that is trusted gets a record."""

import datetime
import socket
import ssl

import pytest
import trio
from exported_lines import FACTS, LINES
from otlp_receiver import receiving
from own_ca import write_authority

from nono_trio.audit.export.destination import Taken, Unavailable
from nono_trio.audit.export.otlp_endpoint import Endpoint, OtlpEndpoint
from nono_trio.proxy.intercept.ca import own_authority
from nono_trio.proxy.intercept.session_authority import SessionAuthority


@pytest.fixture
def authority(tmp_path):
    return write_authority(tmp_path)


def server_context(authority, host):
    certificate, key = authority
    now = datetime.datetime.now(datetime.UTC)
    own = own_authority(certificate.read_bytes(), key.read_bytes(), now)
    return trio.run(SessionAuthority(own).server_context, host)


async def deliver(receiver, trusted=None):
    context = ssl.create_default_context(cafile=trusted)
    endpoint = Endpoint(tls=True, host="localhost", port=receiver.port, path="/v1/logs")
    destination = OtlpEndpoint(endpoint, "otlp", list, context, integrity=False)
    with trio.fail_after(60):
        try:
            for _ in range(2):
                assert await destination.deliver(LINES, FACTS) == Taken()
        finally:
            await destination.aclose()


def test_a_trusted_receiver_gets_what_is_sent_on_one_connection(authority):
    with receiving(server_context(authority, "localhost")) as receiver:
        trio.run(deliver, receiver, authority[0])
        assert len(receiver.taken) == 2 * len(LINES)
        assert receiver.connections == 1


@pytest.mark.parametrize(("host", "is_trusted"), [("localhost", False), ("other.test", True)])
def test_another_receiver_gets_nothing(authority, host, is_trusted):
    with receiving(server_context(authority, host)) as receiver:
        with pytest.raises(Unavailable, match="certificate can't be trusted"):
            trio.run(deliver, receiver, authority[0] if is_trusted else None)
        assert not receiver.requests


def test_a_port_that_nobody_listens_at_is_called_so():
    async def refused():
        endpoint = Endpoint(tls=False, host="127.0.0.1", port=port, path="/v1/logs")
        destination = OtlpEndpoint(endpoint, "otlp", list, None, integrity=False)
        with pytest.raises(Unavailable, match="connection refused"):
            await destination.deliver(LINES, FACTS)

    with socket.socket() as bound:  # it does not listen, and nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        trio.run(refused)
