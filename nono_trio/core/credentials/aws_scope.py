"""Compares the scope of an AWS signature with the host to which it goes.

A signature names a region and a service. One that a host of another service gets could be passed
on to the service that it is for. So both are compared with the name of the host.

Rules of this file:
- Names under the domains of AWS are compared. Another host (a store of one's own, with the same
  protocol) has one meaning only, which its user has chosen by binding it.
- The region is compared if the name has one. Only labels that AWS decides count for the service:
  the one after the region if there is one, else the two before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.core.late import late_pattern

if TYPE_CHECKING:
    from collections.abc import Mapping

_DOMAINS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".on.aws")
_REGION: Final = late_pattern(r"[a-z]{2,}(?:-[a-z]+)+-[0-9]+")
_DASHED_REGION: Final = late_pattern(r"(.+?)-([a-z]{2}(?:-[a-z]+)+-[0-9]+)")  # s3-eu-west-1
_LONG: Final = 5  # characters of a name that is no beginning of another's

# Services whose hosts do not have the service's name in theirs; from the models of botocore 1.44.
_OTHER_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "aws-marketplace": ("marketplace",),
    "awsssoportal": ("portal",),
    "connect": ("contact-lens",),
    "execute-api": ("participant", "connect"),
    "iotdata": ("iot",),
    "iotdevicegateway": ("iot",),
    "iotsecuredtunneling": ("iot", "tunneling"),
    "iot-jobs-data": ("jobs", "iot"),
    "ivs": ("ivsrealtime",),
    "mgh": ("migrationhub-config",),
    "mobiletargeting": ("pinpoint",),
    "ses": ("email", "mail-manager", "email-smtp"),
    "sqs": ("queue",),
    "sso-oauth": ("oidc",),
}


def is_for_host(region: str, service: str, host: str) -> bool:
    """Return True if a signature for `region` and `service` is of use at `host` only.

    `host` is in lower case and has no port.
    """
    domain = next((one for one in _DOMAINS if host.endswith(one)), None)
    if domain is None:
        return True
    labels = host.removesuffix(domain).split(".")
    dashed = _DASHED_REGION.fullmatch(labels[-1])
    if dashed is not None and not _REGION.fullmatch(labels[-1]):
        labels[-1:] = [dashed[1], dashed[2]]
    at = next(
        (number for number in reversed(range(len(labels))) if _REGION.fullmatch(labels[number])),
        None,
    )
    if at is None:
        return _names(service, labels[-2:])
    if labels[at] != region:
        return False
    return _names(service, labels[at + 1 :] or labels[max(at - 2, 0) : at])


def is_service_suffix(suffix: str) -> bool:
    """Return True if all names below `suffix` are of one service, so that AWS runs each of them."""
    domain = next((one for one in _DOMAINS if suffix.endswith(one)), None)
    if domain is None:
        return False
    labels = suffix.removesuffix(domain).split(".")
    return labels[0] in ("s3", "dualstack", "s3-fips") and all(
        one in ("s3", "dualstack", "s3-fips") or _REGION.fullmatch(one) for one in labels
    )


def _names(service: str, labels: list[str]) -> bool:
    """Return True if one of a host's labels names a service."""
    service = service.lower()
    return any(_is_name(one, label) for label in labels for one in _known(service))


def _known(service: str) -> tuple[str, ...]:
    return (service, *_OTHER_NAMES.get(service, ()))


def _is_name(name: str, label: str) -> bool:
    """Return True for a label like NAME, NAME-fips, data-NAME or NAMEv2."""
    joined = name.replace("-", "")
    return (
        label.replace("-", "") == joined
        or label.startswith(f"{name}-")
        or name in label.split("-")
        or (len(name) >= _LONG and label.startswith(name))
    )
