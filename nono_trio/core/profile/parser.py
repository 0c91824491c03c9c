"""From the text of a profile to its entries, or to all its faults.

Rules of this file: all faults are collected, so that their author can correct them at once. A fault
has its line, its key, the expected value and the value found. An unknown key is a fault, because a
misspelt `deny` would deny nothing. Nothing of a profile with faults is used.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.variables import check_set
from nono_trio.core.profile.endpoint import TABLES as ENTRY_TABLES
from nono_trio.core.profile.endpoint import Endpoint, Mcp
from nono_trio.core.profile.fields import BY_KEY
from nono_trio.core.profile.line_numbers import json_lines, line_of, toml_lines
from nono_trio.core.profile.schema import TABLES, EntryOrigin, Extends, Profile, SourcedProfile
from nono_trio.core.profile.type_faults import ANY_KEY, TypeFault, explain
from nono_trio.core.profile.values import check_entry, check_host, suggestion
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nono_trio.core.profile.line_numbers import KeyPath

# The values of a text before the schema has checked them, and the schema's own types.
Value: TypeAlias = Any

_AT_LINE: Final = late_pattern(r" \(at (?:line (\d+), column \d+|end of document)\)")
_CREDENTIALS: Final = "credentials"


@dataclass(frozen=True)
class Fault:
    """One fault; `key` is dotted, "" for the text as a whole."""

    file: str
    line: int
    key: str
    message: str
    hint: str | None = None

    @property
    def text(self) -> str:
        """`file:line: key: message`."""
        return ": ".join(filter(None, (f"{self.file}:{self.line}", self.key, self.message)))


@dataclass(frozen=True)
class Reading:
    """The result of reading a text: without faults, `sourced` is all of it."""

    sourced: SourcedProfile
    faults: tuple[Fault, ...]

    def accepted(self) -> SourcedProfile:
        """Return the profile; raises UsageError with the first fault."""
        if not self.faults:
            return self.sourced
        first, *others = self.faults
        hint = first.hint
        if others:
            more = f"{len(others)} more: nono-trio profile validate {first.file}"
            hint = f"{hint}; {more}" if hint else more
        raise UsageError(first.text, hint=hint)


def read_profile(text: str, file: str, *, built_in: bool = False) -> Reading:
    """Read TOML, or JSON when `file` ends in .json; raises nothing for any text."""
    is_json = file.endswith(".json")
    try:
        data = _parse_json(text) if is_json else tomllib.loads(text)
        lines = json_lines(text) if is_json else toml_lines(text)
    except RecursionError:
        return _refused(file, 1, "nested too deeply")
    except tomllib.TOMLDecodeError as error:
        place = _AT_LINE.search(str(error))
        line = int(place[1]) if place and place[1] else 1 + text.rstrip("\n").count("\n")
        return _refused(file, line, f"not TOML: {_lower(_AT_LINE.sub('', str(error)))}")
    except _BadJson as error:
        return _refused(file, error.line, f"not JSON: {error}")
    except ValueError:  # by Python's bound on the digits of a number
        return _refused(file, 1, "a number has too many digits")
    if not isinstance(data, dict):
        return _refused(file, 1, "expected a table of settings")
    return _Reader(file, built_in, lines).read(data)


class _BadJson(Exception):
    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def _parse_json(text: str) -> Value:
    """Parse JSON with the standard library, which gives the line and every key, even a repeated
    one."""
    import json

    def once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise _BadJson(f"the key {twice!a} is there twice", _last_line(text, twice))
        return found

    try:
        data: Value = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise _BadJson(_lower(error.msg), error.lineno) from None
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        line = 1 + text.count("\n", 0, max(text.lower().find("\\ud"), 0))
        raise _BadJson("an escape is half of a character", line) from None
    return data


def _last_line(text: str, key: str) -> int:
    return 1 + text.count("\n", 0, max(text.rfind(f'"{key}"'), 0))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _refused(file: str, line: int, message: str) -> Reading:
    return Reading(SourcedProfile(), (Fault(file, line, "", message),))


class _Reader:
    """Turns the data of one text into a profile."""

    def __init__(self, file: str, built_in: bool, lines: dict[KeyPath, int]) -> None:
        self._file = file
        self._built_in = built_in
        self._lines = lines
        self._faults: list[Fault] = []
        self._origins: dict[tuple[str, str], EntryOrigin] = {}

    def read(self, data: dict[str, Value]) -> Reading:
        """Read every table and key; a field with a fault keeps its default."""
        given: dict[str, Value] = {}
        for name, value in data.items():
            if name == _CREDENTIALS:
                given[name] = dict(self._credentials(value))
            elif name == "extends":
                given[name] = self._value((name,), value, Extends, [])
            elif name in TABLES:
                given[name] = self._table((name,), value, TABLES[name])
            else:
                self._unknown((name,), Profile.__struct_fields__)
        self._faults.sort(key=lambda fault: fault.line)
        return Reading(SourcedProfile(Profile(**given), self._origins), tuple(self._faults))

    def _table(self, path: KeyPath, data: Value, table: Value) -> Value:
        """One table; `table` is its class in the schema."""
        if not isinstance(data, dict):
            hint = f"write [{_dotted(path)}] above"
            self._fault(path, f"expected a table, got {_kind(data)}", hint)
            return table()
        known = {field.name: field for field in msgspec.structs.fields(table)}
        given: dict[str, Value] = {}
        for name, value in data.items():
            if name not in known:
                self._unknown((*path, name), known)
                continue
            default = getattr(table(), name)
            given[name] = self._value((*path, name), value, known[name].type, default)
        return table(**given)

    def _credentials(self, data: Value) -> Iterator[tuple[str, Value]]:
        """Yield the tables of `[credentials.NAME]` by name."""
        from nono_trio.core.credentials.credential import check_name  # late: few profiles
        from nono_trio.core.profile.credential_table import CredentialTable

        at: KeyPath = (_CREDENTIALS,)
        if not isinstance(data, dict):
            self._fault(at, f"expected tables, got {_kind(data)}", "write [credentials.NAME] above")
            return
        for name, value in data.items():
            try:
                check_name(name)
            except UsageError as error:
                message = error.message.partition(": ")[2]
                self._fault((*at, name), message, error.hint, key=_CREDENTIALS)
                continue
            origin = EntryOrigin(self._file, line_of(self._lines, (*at, name)), self._built_in)
            self._origins[f"{_CREDENTIALS}.{name}", ""] = origin
            table = self._table((*at, name), value, CredentialTable)
            yield name, table

    def _value(self, path: KeyPath, value: Value, kind: Value, default: Value) -> Value:
        field = BY_KEY.get(_dotted(path))
        if field is not None and field.kind in ENTRY_TABLES and isinstance(value, list):
            value = [*self._whole_tables(path, value, ENTRY_TABLES[field.kind])]
        try:
            converted = msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            self._wrong_type(path, value, explain(str(error), kind), key=path)
            return default
        for entry_path, entry in _entries(path, converted):
            self._entry(path, entry_path, entry)
        return converted

    def _whole_tables(
        self, path: KeyPath, values: list[Value], table: type[Endpoint] | type[Mcp]
    ) -> Iterator[Value]:
        """Yield the tables of an array that have the keys and types of a rule."""
        known = table.__struct_fields__
        for index, value in enumerate(values):
            at = (*path, index)
            if not isinstance(value, dict):
                self._fault(at, f"expected a table, got {_kind(value)}", key=_dotted(path))
                continue
            unknown = [name for name in value if name not in known]
            for name in unknown:
                hint = suggestion(str(name), known, "known keys")
                self._fault((*at, name), "unknown key", hint, key=f"{_dotted(path)}.{name}")
            try:
                converted = msgspec.convert(value, table)
            except msgspec.ValidationError as error:
                if not unknown:
                    self._wrong_type(at, value, explain(str(error), table), key=path)
                continue
            yield converted

    def _entry(self, path: KeyPath, entry_path: KeyPath, entry: Value) -> None:
        """Check one entry and record its line: a list's entry by its text, a single value by ""."""
        key = _dotted(path)
        field = BY_KEY.get(key)
        by_name = field is not None and field.merge == "by_name"
        name = "" if entry_path == path else str(entry_path[-1] if by_name else entry)
        origin = EntryOrigin(self._file, line_of(self._lines, entry_path), self._built_in)
        self._origins.setdefault((key, name), origin)
        try:
            if key == "environment.set":
                check_set(name)
            elif by_name:
                check_host(name)
            if isinstance(entry, (Endpoint, Mcp)):
                entry.check()
            if field is not None and isinstance(entry, (str, Endpoint, Mcp)):
                check_entry(field.kind, str(entry))
            if len(path) == 3 and path[0] == _CREDENTIALS:
                from nono_trio.core.profile.credential_table import check_key  # late: few profiles

                check_key(str(path[1]), str(path[2]), entry)
        except UsageError as error:
            self._fault(entry_path, error.message, error.hint, key=key)

    def _wrong_type(self, path: KeyPath, value: Value, fault: TypeFault, *, key: KeyPath) -> None:
        at, part = path, value
        for member in fault.members:
            if member == ANY_KEY:
                member = next((one for one in part if not isinstance(part[one], str)), ANY_KEY)
            at = (*at, member)
            part = _part(part, member)
        hint = fault.hint
        if isinstance(part, str) and "a list" in fault.message:
            name = f'"{at[-1]}": ' if self._file.endswith(".json") else f"{at[-1]} = "
            hint = f'write {name}["{part}"]'
        self._fault(at, fault.message, hint, key=_dotted((*key, *fault.names)))

    def _unknown(self, path: KeyPath, known: Value) -> None:
        self._fault(path, "unknown key", suggestion(str(path[-1]), known, "known keys"))

    def _fault(
        self, path: KeyPath, message: str, hint: str | None = None, *, key: str | None = None
    ) -> None:
        line = line_of(self._lines, path)
        self._faults.append(Fault(self._file, line, key or _dotted(path), message, hint))


def _part(value: Value, member: str | int) -> Value:
    """A part of a value; None where it has no such part."""
    try:
        return value[member]
    except (KeyError, IndexError, TypeError):
        return None


def _entries(path: KeyPath, value: Value) -> Iterator[tuple[KeyPath, Value]]:
    """The entries of a list or table with their paths; a single value is its own entry."""
    if isinstance(value, list):
        yield from (((*path, index), entry) for index, entry in enumerate(value))
    elif isinstance(value, dict):
        yield from (((*path, name), entry) for name, entry in value.items())
    else:
        yield path, value


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else "a single value"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)
