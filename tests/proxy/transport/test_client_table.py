"""The table of clients: who has a place, who loses it, and in which order."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from nono_trio.proxy.transport.client import ClientTable

PLACES = 3


class Guest:
    """What the table knows of a client."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_place = self.proven = self.idle = self.dropped = self.expired = False

    def drop(self) -> None:
        self.dropped = self.expired = True


class PlainTable:
    """The rules of a table, each said without thought for its cost."""

    def __init__(self) -> None:
        self.members: list[Guest] = []

    def add(self, one: Guest) -> bool:
        self._give_place(one)
        self.members.append(one)
        return one.has_place

    def prove(self, one: Guest) -> bool:
        one.proven = True
        if one not in self.members:
            one.dropped = one.expired = False
            self.members.append(one)
        if not one.has_place:
            self._give_place(one)
        return one.has_place

    def discard(self, one: Guest) -> None:
        if one in self.members:
            self.members.remove(one)
        one.has_place = False

    def make_room(self) -> bool:
        return self._drop_first(self.members)

    def _give_place(self, one: Guest) -> None:
        taken = [other for other in self.members if other.has_place]
        one.has_place = len(taken) < PLACES or self._drop_first(taken)

    def _drop_first(self, among: list[Guest]) -> bool:
        unproven = [one for one in among if not one.proven]
        for one in [*unproven, *(one for one in among if one.idle)]:
            self.discard(one)
            one.drop()
            return True
        return False


ACTS = ("add", "prove", "discard", "make_room", "idle")


@given(st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 7)), max_size=60))
def test_a_client_gets_and_loses_its_place_as_the_rules_say(acts):
    ours, plain = ClientTable(PLACES), PlainTable()
    pairs: dict[int, tuple[Guest, Guest]] = {}
    for act, number in acts:
        if act == "add" and number not in pairs:
            pairs[number] = one, other = Guest(number), Guest(number)
            assert ours.add(cast("Any", one)) == plain.add(other)
        elif act == "make_room":
            assert ours.make_room() == plain.make_room()
        elif number in pairs:
            one, other = pairs[number]
            if act == "idle":
                one.idle = other.idle = not one.idle
            elif act == "prove":
                assert ours.prove(cast("Any", one)) == plain.prove(other)
            elif act == "discard":
                ours.discard(cast("Any", one))
                plain.discard(other)
                del pairs[number]
        for one, other in pairs.values():
            assert vars(one) == vars(other)
        members = [cast("Guest", one).number for one in ours.members]
        assert members == [one.number for one in plain.members]
        assert sum(one.has_place for one, _ in pairs.values()) <= PLACES


@given(st.lists(st.booleans(), max_size=8))
def test_at_the_end_all_idle_clients_are_dropped_and_no_other_one(idle):
    table, guests = ClientTable(places=8), [Guest(number) for number in range(len(idle))]
    for one, is_idle in zip(guests, idle, strict=True):
        table.add(cast("Any", one))
        table.prove(cast("Any", one))
        one.idle = is_idle
    while table.drop_idle():
        pass
    assert [one.dropped for one in guests] == idle
