"""The structure of a profile, and how profiles are merged.

Rules of this file: the structures are made from the declarations in fields.py; lists add up, base
first, each entry once; a later profile's single value replaces an earlier one's; tables of names
(environment.set) are merged name by name. Every entry keeps its file and line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import msgspec

from nono_trio.core.profile.endpoint import TABLES as ENTRY_TABLES
from nono_trio.core.profile.fields import BY_KEY, SECTIONS, Field, fields_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nono_trio.core.profile.fields import Merge

Extends: TypeAlias = str | list[str]


class Table(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A table of a profile; every key may be left out."""


class About(Table, frozen=True):
    """`meta`: for people only. `notes` are sentences on how to use what the profile is for."""

    name: str | None = None
    description: str | None = None
    notes: list[str] = []


# The default of a field.
_EMPTY: Final[dict[Merge, Any]] = {
    "adds_up": msgspec.field(default_factory=list),
    "by_name": msgspec.field(default_factory=dict),
    "replaces": None,
}


def _type(declared: Field) -> Any:  # noqa: ANN401  (a type, for msgspec)
    """Return the type that a field's value has; None means a single value not given."""
    least, most = declared.least, declared.most
    within = msgspec.Meta(gt=least, le=most) if declared.above else msgspec.Meta(ge=least, le=most)
    entry: Any = {
        "switch": bool,
        "choice": Literal[declared.choices],
        "whole_number": Annotated[int, within],
        "seconds": Annotated[float, within],
        **ENTRY_TABLES,
    }.get(declared.kind, str)
    wholes: dict[Merge, Any] = {
        "adds_up": list[entry], "by_name": dict[str, entry], "replaces": entry | None,
    }  # fmt: skip
    return wholes[declared.merge]


def _table(section: str) -> Any:  # noqa: ANN401  (a class that the type checker can't see into)
    """Make the structure of a section from the declarations of its fields."""
    return msgspec.defstruct(
        section.title(),
        [(one.name, _type(one), _EMPTY[one.merge]) for one in fields_of(section)],
        bases=(Table,),
        module=__name__,
        frozen=True,
        kw_only=True,
        omit_defaults=True,
    )


TABLES: Final = {"meta": About} | {section: _table(section) for section in SECTIONS}


class Profile(Table, frozen=True):
    """A whole profile: one file, or a file with everything it extends."""

    meta: About = About()
    extends: Extends = []
    filesystem: Any = TABLES["filesystem"]()
    network: Any = TABLES["network"]()
    environment: Any = TABLES["environment"]()
    audit: Any = TABLES["audit"]()
    limits: Any = TABLES["limits"]()
    credentials: dict[str, Any] = {}  # CredentialTable by name; few profiles have one

    @property
    def bases(self) -> list[str]:
        """The profiles that it extends, in order."""
        return [self.extends] if isinstance(self.extends, str) else self.extends


@dataclass(frozen=True)
class EntryOrigin:
    """The place of an entry; `built_in` for a profile that we ship."""

    file: str
    line: int
    built_in: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class SourcedProfile:
    """A profile and the places of its entries, by dotted key and entry ("" for single values)."""

    profile: Profile = field(default_factory=Profile)
    origins: Mapping[tuple[str, str], EntryOrigin] = field(default_factory=dict)

    def origin(self, key: str, entry: object = "") -> EntryOrigin | None:
        """Return the place of an entry of a dotted key; None for a default."""
        return self.origins.get((key, str(entry)))


def merge(base: SourcedProfile, over: SourcedProfile) -> SourcedProfile:
    """Put `over` on `base`; `meta` and `extends` are those of `over`, the notes are of both."""
    merged = {
        section: _merge_table(
            section, getattr(base.profile, section), getattr(over.profile, section)
        )
        for section in SECTIONS
    }
    if over.profile.credentials:
        from nono_trio.core.profile.credential_table import merge_tables  # late: few profiles

        merged["credentials"] = merge_tables(base.profile.credentials, over.profile.credentials)
    else:
        merged["credentials"] = base.profile.credentials
    about = over.profile.meta
    notes = list(dict.fromkeys([*base.profile.meta.notes, *about.notes]))
    about = About(name=about.name, description=about.description, notes=notes)
    profile = Profile(meta=about, extends=over.profile.extends, **merged)
    # A list entry in both has the place in the base; a single value has the place in `over`.
    origins = dict(base.origins)
    for (key, entry), origin in over.origins.items():
        if key in BY_KEY and BY_KEY[key].merge == "adds_up":
            origins.setdefault((key, entry), origin)
        else:
            origins[key, entry] = origin
    return SourcedProfile(profile, origins)


def _merge_table(section: str, base: Any, over: Any) -> Any:  # noqa: ANN401  (one of TABLES)
    merged = {
        one.name: _MERGE[one.merge](getattr(base, one.name), getattr(over, one.name))
        for one in fields_of(section)
    }
    return TABLES[section](**merged)


_MERGE: Final[dict[Merge, Callable[[Any, Any], Any]]] = {
    "adds_up": lambda base, over: list(dict.fromkeys([*base, *over])),
    "by_name": lambda base, over: {**base, **over},
    "replaces": lambda base, over: base if over is None else over,
}
