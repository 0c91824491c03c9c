"""AWS keys: from variables, files or a command line with an end, and their stand-ins."""

from __future__ import annotations

import json
import os
import shlex
import sys
from datetime import UTC, datetime, timedelta

import pytest

from nono_trio.core.credentials.aws_sources import AWS_VARIABLES
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.core.credentials.secret import Secret
from nono_trio.errors import UsageError
from nono_trio.sandbox.filesystem.plan import FilePlan, Grant
from nono_trio.session.credentials.aws import AwsKeysReader, HeldAwsKeys
from nono_trio.session.credentials.readers import SourceFailed
from nono_trio.session.credentials.table import open_credentials
from nono_trio.session.opened_files import OpenedFiles

KEY_ID = "ASIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
TOKEN = "IQoJb3JpZ2luX2VjEXAMPLE//////////wEaCXVzLWVhc3QtMSJHMEUCIQ=="
HOST = "s3.eu-central-1.amazonaws.com"
VARIABLES = dict(zip(AWS_VARIABLES, (KEY_ID, SECRET, TOKEN), strict=True))


def answer(**more: object) -> str:
    keys = {"Version": 1, "AccessKeyId": KEY_ID, "SecretAccessKey": SECRET, "SessionToken": TOKEN}
    return json.dumps(keys | more, indent=2)


def credential(environment=VARIABLES, **settings):
    return make_credential("aws", environment, hosts=[HOST], **settings)


def held(one, environment=VARIABLES, files=None) -> HeldAwsKeys:
    environment = {"PATH": os.environ["PATH"], **environment}
    (found,) = open_credentials([one], environment, files).held
    assert isinstance(found, HeldAwsKeys)
    return found


def prints(tmp_path, text: str) -> str:
    path = tmp_path / "answer"
    path.write_text(text)
    code = f"print(open({str(path)!r}).read())"
    return f"cmd://{shlex.join([sys.executable, '-c', code])}"


async def test_keys_come_from_the_variables_of_aws_without_being_named():
    one = held(credential())
    assert (await one.keys()).texts() == (KEY_ID.encode(), SECRET.encode(), TOKEN.encode())
    assert one.values().keys() == set(AWS_VARIABLES)
    assert one.values()["AWS_ACCESS_KEY_ID"] == one.stand_in
    assert one.stand_in.startswith(b"ASIA")
    assert [real.decode() for real, _ in one.pairs()] == [KEY_ID, SECRET, TOKEN]
    assert not {KEY_ID, SECRET, TOKEN} & {value.decode() for value in one.values().values()}
    for text in (SECRET, TOKEN, one.stand_in.decode()):
        assert text not in repr(one)


async def test_keys_without_a_session_token_have_no_stand_in_for_one():
    environment = {name: VARIABLES[name] for name in AWS_VARIABLES[:2]}
    one = held(credential(environment), environment)
    assert one.values().keys() == set(AWS_VARIABLES[:2])
    assert (await one.keys()).session_token is None


async def test_keys_come_from_what_a_credential_process_prints(tmp_path):
    end = datetime.now(UTC) + timedelta(hours=1)
    source = prints(tmp_path, answer(Expiration=end.isoformat()))
    one = held(credential({}, source=source), {})
    assert (await one.keys()).texts()[1] == SECRET.encode()
    assert one.values().keys() == set(AWS_VARIABLES)


async def test_each_part_may_have_a_source_of_its_own(tmp_path):
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    one = held(
        credential(
            {}, source="env://ID", secret_access_key=f"file://{file}", session_token="env://TOKEN"
        ),
        {"ID": KEY_ID, "TOKEN": TOKEN},
    )
    assert (await one.keys()).texts() == (KEY_ID.encode(), SECRET.encode(), TOKEN.encode())
    file.write_text("another/secret+key/that+has/the/same/len")
    assert (await one.keys()).secret_access_key == b"another/secret+key/that+has/the/same/len"


class Fixed:
    """A reader of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def read(self) -> Secret:
        return Secret(self._text.encode())

    def stop(self) -> None:
        """Nothing waits."""


@pytest.mark.parametrize(
    ("expires", "lifetime"),
    [("2027-01-15T08:10:00Z", 540), ("2027-01-15T08:01:30Z", 45), ("2027-01-15T08:00:01Z", 1)],
)
def test_keys_are_used_until_a_margin_before_their_end(expires, lifetime):
    reader = AwsKeysReader(Fixed(answer(Expiration=expires)), clock=lambda: 1_800_000_000)
    assert reader.read().lifetime == lifetime


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (answer(Expiration="2027-01-15T08:00:00Z"), "time is over"),
        (answer(Version=3), "Version 1"),
        (SECRET, "credential_process"),
    ],
)
def test_what_gives_no_keys_is_a_failure_without_a_word_of_it(text, reason):
    with pytest.raises(SourceFailed, match=reason) as caught:
        AwsKeysReader(Fixed(text), clock=lambda: 1_800_000_000).read()
    assert SECRET not in caught.value.reason


def test_a_missing_part_refuses_the_run():
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY is not set"):
        held(credential(), {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SESSION_TOKEN": TOKEN})


def test_the_command_must_not_reach_the_source_of_any_part(tmp_path):
    file = tmp_path / "secret"
    file.write_text(SECRET)
    grant = Grant(str(tmp_path), "write", is_file=False, source="--write")
    files = FilePlan((grant,), (), (), kept=(), start="/", directory="/")
    one = credential(source="env://AWS_ACCESS_KEY_ID", secret_access_key=f"file://{file}")
    with pytest.raises(UsageError, match="may change"):
        held(one, files=OpenedFiles(files, sandbox=True))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"source": "env://ID", "session_token": "env://T"}, "both|and that of"),
        ({"secret_access_key": "env://S"}, "and that of"),
        ({"variables": ["A", "B"]}, "three variables"),
        ({"kind": "token", "secret_access_key": "env://S"}, "of AWS keys"),
    ],
)
def test_settings_that_can_not_be_meant(settings, reason):
    with pytest.raises(UsageError, match=reason):
        credential(**settings)
