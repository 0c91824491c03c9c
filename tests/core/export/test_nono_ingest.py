import hashlib
import json
import uuid

import pytest
from sealed_session import build, running

from nono_trio.audit import store
from nono_trio.core.export import nono_ingest


def delivered(directory, piece=7):
    data = (directory / store.LOG).read_bytes()
    head = nono_ingest.envelope(store.read_metadata(directory), "tenant-1", "device-1")
    pieces = [data[place : place + piece] for place in range(0, len(data), piece)]
    return json.loads(b"".join(nono_ingest.encode(head, pieces)))


def test_the_envelope_has_the_exact_bytes_and_the_digest_of_the_ledger(tmp_path):
    directory = build(tmp_path)
    found = delivered(directory)
    assert found["events_ndjson"].encode() == (directory / store.LOG).read_bytes()
    text = b"nono.audit.session-digest.alpha\n" + found["session_metadata_json"].encode()
    digest = hashlib.sha256(text).hexdigest()
    line = json.loads((tmp_path / "ledger.ndjson").read_text())
    assert found["session_digest"] == digest == line["session_digest"]
    assert found["merkle_root"] == store.read_metadata(directory).audit_integrity.merkle_root
    assert (found["tenant_id"], found["shipper_id"]) == ("tenant-1", "device-1")


def test_the_id_of_a_delivery_is_a_uuid_7_and_the_same_each_time(tmp_path):
    directory = build(tmp_path)
    first, second = (uuid.UUID(delivered(directory)["ingest_id"]) for _ in range(2))
    assert first == second
    assert (first.version, first.variant) == (7, uuid.RFC_4122)


def test_text_across_pieces_is_whole(tmp_path):
    head = nono_ingest.envelope(store.read_metadata(build(tmp_path)), "t", "s")
    text = 'é\u2028"\\'.encode()
    pieces = [text[place : place + 1] for place in range(len(text))]
    assert json.loads(b"".join(nono_ingest.encode(head, pieces)))["events_ndjson"] == 'é\u2028"\\'
    with pytest.raises(UnicodeDecodeError):
        [*nono_ingest.encode(head, [b"\xff"])]


def test_a_session_that_is_not_sealed_is_refused(tmp_path):
    directory = running(tmp_path)
    with pytest.raises(ValueError, match="not sealed"):
        nono_ingest.envelope(store.read_metadata(directory), "t", "s")
