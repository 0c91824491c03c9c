"""A signature is for the host of its own service and region."""

from __future__ import annotations

import pytest

from nono_trio.core.credentials.aws_scope import is_for_host, is_service_suffix
from nono_trio.core.credentials.credential import check_wildcards
from nono_trio.core.credentials.make_credential import make_credential
from nono_trio.errors import UsageError


@pytest.mark.parametrize(
    ("region", "service", "host"),
    [
        ("eu-west-1", "s3", "s3.eu-west-1.amazonaws.com"),
        ("eu-west-1", "s3", "bucket.name.s3.eu-west-1.amazonaws.com"),
        ("eu-west-1", "s3", "bucket.s3.dualstack.eu-west-1.amazonaws.com"),
        ("eu-west-1", "s3", "s3-eu-west-1.amazonaws.com"),
        ("eu-west-1", "s3", "bucket.s3.amazonaws.com"),
        ("us-east-1", "sts", "sts.amazonaws.com"),
        ("us-east-1", "bedrock", "bedrock-runtime.us-east-1.amazonaws.com"),
        ("us-gov-west-1", "bedrock", "bedrock-runtime-fips.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "dynamodb", "dynamodb.cn-north-1.amazonaws.com.cn"),
        ("us-east-1", "ses", "email.us-east-1.amazonaws.com"),
        ("us-east-1", "sqs", "us-east-1.queue.amazonaws.com"),
        ("us-east-1", "ecr", "api.ecr.us-east-1.amazonaws.com"),
        ("us-east-1", "execute-api", "abc.execute-api.us-east-1.amazonaws.com"),
        ("us-east-1", "lambda", "abc.lambda-url.us-east-1.on.aws"),
        ("us-east-1", "es", "search-x.us-east-1.es.amazonaws.com"),
        ("any", "s3", "minio.example.com"),
    ],
)
def test_a_signature_for_its_own_host(region, service, host):
    assert is_for_host(region, service, host)


@pytest.mark.parametrize(
    ("region", "service", "host"),
    [
        ("us-east-1", "iam", "bedrock-runtime.us-east-1.amazonaws.com"),
        ("us-east-1", "s3", "s3.eu-west-1.amazonaws.com"),
        ("us-east-1", "s3", "s3-eu-west-1.amazonaws.com"),
        ("us-east-1", "iam", "x.us-east-1.elb.amazonaws.com"),
        ("us-east-1", "iam", "iam-1.us-east-1.elb.amazonaws.com"),
        ("us-east-1", "iam", "iam.x.s3.us-east-1.amazonaws.com"),
        ("us-east-1", "sts", "iam.amazonaws.com"),
        ("us-east-1", "es", "states.us-east-1.amazonaws.com"),
    ],
)
def test_a_signature_for_another_service_or_region(region, service, host):
    assert not is_for_host(region, service, host)


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [
        ("s3.us-east-1.amazonaws.com", True),
        ("s3.dualstack.us-east-1.amazonaws.com", True),
        ("s3.amazonaws.com", True),
        ("us-east-1.elb.amazonaws.com", False),
        ("amazonaws.com", False),
        ("us-east-1.amazonaws.com", False),
        ("s3.example.com", False),
    ],
)
def test_a_suffix_below_which_every_name_is_of_one_service(suffix, expected):
    assert is_service_suffix(suffix) is expected


@pytest.mark.parametrize(
    ("name", "host", "allowed"),
    [
        ("aws", "*.s3.eu-west-1.amazonaws.com", True),
        ("aws", "*.eu-west-1.elb.amazonaws.com", False),
        ("bedrock", "*.s3.eu-west-1.amazonaws.com", False),
    ],
)
def test_only_a_key_that_signs_may_have_a_wildcard_over_buckets(name, host, allowed):
    credential = make_credential(name, {}, hosts=[host])
    if allowed:
        check_wildcards(credential, lambda _: True)
    else:
        with pytest.raises(UsageError, match="anybody may register"):
            check_wildcards(credential, lambda _: True)
