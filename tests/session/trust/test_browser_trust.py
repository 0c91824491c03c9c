"""The policy by which Chromium trusts a session, and the directories that may get it."""

from __future__ import annotations

import base64
import datetime
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from nono_trio.proxy.intercept.ca import new_authority
from nono_trio.sandbox.filesystem.plan import FilePlan, Grant
from nono_trio.session.trust.browser_trust import firefox_policy, free_directories, policy
from nono_trio.session.trust.cage_trust import Opened


def test_the_policy_has_the_authority_and_nothing_else() -> None:
    authority = new_authority("session", datetime.datetime.now(datetime.UTC))
    root = base64.b64encode(authority.certificate.public_bytes(Encoding.DER)).decode()
    assert json.loads(policy(authority)) == {"CACertificates": [root]}
    assert json.loads(firefox_policy("/run/ca.pem")) == {
        "policies": {"Certificates": {"Install": ["/run/ca.pem"]}}
    }


@pytest.mark.parametrize(
    ("granted", "closed", "is_free"),
    [
        ("etc/other", "etc/other", True),
        ("etc/chromium/policies/managed/file", "etc/other", True),
        ("etc/chromium/policies/managed", "etc/other", False),
        ("etc", "etc/other", False),
        ("other", "etc/chromium", False),
    ],
)
def test_a_directory_that_shows_the_hosts_files_is_left(granted, closed, is_free, tmp_path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "etc")
    by_link = str(tmp_path / "link/chromium/policies/managed")
    grant = Grant(str(tmp_path / granted), "read", is_file=False, source="--read")
    denied = (str(tmp_path / closed),)
    plan = FilePlan((grant,), denied, covered=(), kept=(), start="/", directory="/")
    expected = [str(tmp_path / "etc/chromium/policies/managed")] if is_free else []
    assert free_directories([by_link, by_link], Opened(plan, sandbox=True).shows) == expected
