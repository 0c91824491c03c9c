"""A call whose answer has keys is known by its name."""

from __future__ import annotations

import pytest

from nono_trio.core.credentials.aws_calls import answers_with_keys


@pytest.mark.parametrize(
    ("service", "target", "body"),
    [
        (b"sts", b"/", b"Action=AssumeRole&RoleArn=x"),
        (b"sts", b"/", b"Action=GetCallerIdentity&Action=AssumeRole"),
        (b"sts", b"/", b"Action=Get%53essionToken"),
        (b"sts", b"/", b"%41ction=GetFederationToken"),
        (b"sts", b"/?Action=AssumeRole", b"Action=GetCallerIdentity"),
        (b"sts", b"/", b'{"Action": "GetCallerIdentity"}'),
        (b"sts", b"/", b""),
        (b"iam", b"/", b"Action=CreateAccessKey&UserName=x"),
        (b"iam", b"/", b"{}"),
        (b"s3express", b"/?session", b""),
        (b"s3express", b"/?%73ession=", b""),
    ],
)
def test_a_call_whose_answer_may_have_keys(service, target, body):
    assert answers_with_keys(service, target, body)


@pytest.mark.parametrize(
    ("service", "target", "body"),
    [
        (b"sts", b"/", b"Action=GetCallerIdentity&Version=2011-06-15"),
        (b"sts", b"/?Action=GetCallerIdentity", b""),
        (b"iam", b"/", b"Action=ListUsers"),
        (b"s3", b"/?session", b""),
        (b"s3express", b"/key?x=session", b""),
        (b"dynamodb", b"/", b"Action=AssumeRole"),
    ],
)
def test_any_other_call(service, target, body):
    assert not answers_with_keys(service, target, body)
