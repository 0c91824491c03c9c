"""The launcher gets the plan that was made, whole, or says what is wrong with it."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple, get_args, get_type_hints

import cage_plans
import pytest
from cage_plans import cage_plan
from hypothesis import assume, given
from hypothesis import strategies as st

from nono_trio.sandbox import spawn
from nono_trio.sandbox.launcher import protocol
from nono_trio.sandbox.launcher.cage_plan import (
    CageGrant,
    CagePlan,
    MountKind,
    MountOp,
    PlanError,
    decode,
    encode,
)
from nono_trio.sandbox.spawn import LaunchFailed, await_ready

SECRET = "5ecret"
WHOLE = cage_plan(
    isolation="namespace",
    grants=[CageGrant("/a", "read", is_file=False), CageGrant("/b", "readwrite", is_file=True)],
    identities={"/a": (1, 2)},
    mounts=[
        MountOp("bind", "/a", writable=True, identity=(1, 2**63)),
        MountOp("private", "/tmp", size=1 << 40, files=65_536),
        MountOp("text", "/etc/hosts", text="127.0.0.1 localhost\n"),
    ],
    command=["sh", "-c", "\udcff \x00"],
    environment={"TOKEN": SECRET},
    limits={"NOFILE": 64},
    temporary="/tmp/x",
    deadline_seconds=2,
)


def over_the_socket(plan: CagePlan) -> Any:
    decoder = protocol.Decoder()
    decoder.feed(protocol.encode({"start": encode(plan)}), [])
    message, _ = decoder.next() or ({}, [])
    return message["start"]


@pytest.mark.parametrize("plan", [cage_plan(), WHOLE], ids=["empty", "whole"])
def test_a_plan_arrives_as_it_was_made(plan: CagePlan) -> None:
    arrived = decode(over_the_socket(plan))
    assert arrived == plan
    assert [type(one) for one in arrived.mounts] == [MountOp] * len(plan.mounts)
    assert [type(one) for one in arrived.grants] == [CageGrant] * len(plan.grants)


@given(st.from_type(CagePlan))
def test_any_plan_arrives_as_it_was_made(plan: CagePlan) -> None:
    assume(plan.deadline_seconds is None or not math.isnan(plan.deadline_seconds))  # equals nothing
    assert decode(over_the_socket(plan)) == plan


@pytest.mark.parametrize("field", CagePlan._fields)
def test_a_missing_field_is_told(field: str) -> None:
    told = over_the_socket(WHOLE)
    del told[field]
    with pytest.raises(PlanError, match=f"^plan: no {field}$"):
        decode(told)


@pytest.mark.parametrize("field", MountOp._fields)
def test_a_missing_field_of_a_mount_is_told(field: str) -> None:
    told = over_the_socket(WHOLE)
    del told["mounts"][1][field]
    with pytest.raises(PlanError, match=rf"^plan\.mounts: no {field}$"):
        decode(told)


def test_an_unknown_field_is_told() -> None:
    with pytest.raises(PlanError, match=r"^plan: unknown 'extra', unknown 'gr\\nants'$"):
        decode(over_the_socket(WHOLE) | {"gr\nants": [], "extra": 1})


@pytest.mark.parametrize("field", sorted(get_type_hints(CagePlan)))
def test_a_value_of_another_type_is_told_without_the_value(field: str) -> None:
    with pytest.raises(PlanError, match=rf"^plan\.{field}: expected ") as refused:
        decode(over_the_socket(WHOLE) | {field: {"a": {SECRET: SECRET}}})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"port": True}, "plan.port: expected int, got bool"),
        ({"port": "80"}, "plan.port: expected int, got str"),
        ({"foreground": 1}, "plan.foreground: expected bool, got int"),
        ({"temporary": 0}, "plan.temporary: expected str, got int"),
        ({"deadline_seconds": True}, "plan.deadline_seconds: expected float, got bool"),
        ({"identities": {"/a": [1]}}, "plan.identities: expected list of 2, got list"),
        ({"command": "sh"}, "plan.command: expected list, got str"),
        ({"isolation": "open"}, "plan.isolation: expected one of "),
        ({"grants": [["/a", "read", False]]}, "plan.grants: expected dict, got list"),
    ],
)
def test_a_wrong_value_is_told(change: dict[str, Any], text: str) -> None:
    with pytest.raises(PlanError) as refused:
        decode(over_the_socket(WHOLE) | change)
    assert str(refused.value).startswith(text)


@pytest.mark.parametrize("message", [None, [], "plan", 1, [[]]])
def test_what_is_no_plan_at_all_is_told(message: object) -> None:
    with pytest.raises(PlanError, match=r"^plan: expected dict"):
        decode(message)


def test_a_mount_of_an_unknown_kind_is_told() -> None:
    told = over_the_socket(WHOLE)
    told["mounts"][0]["kind"] = "overlay"
    with pytest.raises(PlanError, match=f"expected one of {', '.join(get_args(MountKind))}"):
        decode(told)


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"port": "80"}, {"environment": {"TOKEN": [SECRET]}}]
)
def test_the_launcher_refuses_what_is_no_plan(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """The real launcher: it says so, by its step, and ends."""
    monkeypatch.setattr(spawn, "encode", lambda plan: json.loads(json.dumps(encode(plan))) | change)
    launched = spawn.spawn(WHOLE)
    try:
        with pytest.raises(LaunchFailed, match="plan: plan") as refused:
            await_ready(launched)
    finally:
        launched.abandon()
    assert refused.value.stage == "plan"
    assert SECRET not in str(refused.value)


def test_a_new_field_needs_no_line_in_the_plans_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [*get_type_hints(CagePlan).items(), ("new", list[int]), ("newer", int | None)]
    monkeypatch.setattr(cage_plans, "CagePlan", NamedTuple("Longer", fields))
    plan = cage_plan(umask=7)._asdict()
    assert (plan["new"], plan["newer"], plan["umask"]) == ([], None, 7)
