"""A profile written out: as TOML with the origin of every entry, as JSON, and as a beginning.

Rules of this file: what is printed as TOML is a profile again; text of a profile goes into it
quoted, whatever is in it, and into comments cleaned.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from nono_trio.cli.text import clean
from nono_trio.config.registries import Registries, read_registries
from nono_trio.config.user_paths import path_variables
from nono_trio.core.late import late_pattern
from nono_trio.core.policy.host_groups import PACKAGE_REGISTRIES
from nono_trio.core.profile.fields import SECTIONS, fields_of
from nono_trio.core.profile.schema import Profile
from nono_trio.core.profile.values import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.config.profiles import Loaded
    from nono_trio.core.profile.fields import Field
    from nono_trio.core.profile.schema import SourcedProfile

_BARE_KEY: Final = late_pattern(r"[A-Za-z0-9_-]+")

# Comments above the tables of the template.
_ABOUT: Final = {
    "filesystem": """\
# Paths: relative ones begin in the working directory. Variables: $WORKDIR $HOME $TMPDIR
# $XDG_CONFIG_HOME $XDG_CACHE_HOME $XDG_DATA_HOME $XDG_STATE_HOME, and ~.
""",
    "network": """\
# Hosts: HOST, HOST:PORT, *.SUFFIX. Without a port an allowed host means 80 and 443.
# tls://HOST: its TLS may hide the name (ECH). tcp://HOST:PORT: whatever is spoken there.
""",
    "environment": """\
# Variables that look like secrets are held back unless they are named here.
""",
}

_ABOUT_CREDENTIALS: Final = """\
# A secret that the command never holds: it gets a stand-in, which is swapped for these hosts. For a
# known service (docs/credentials.md) an empty table is enough: [credentials.github]
# [credentials.my-api]"""


def template(name: str, extends: Sequence[str]) -> str:
    """The text of a new profile: every field there is, most of them as comments."""
    bases = quoted(extends[0]) if len(extends) == 1 else _list(extends)
    about = f'[meta]\nname = {quoted(name)}\ndescription = "What it is for"\n'
    sections = map(_section_text, SECTIONS)
    return "\n".join((f"extends = {bases}\n", about, *sections, _credentials_text()))


def _section_text(section: str) -> str:
    """One table of the template; it is commented where none of its fields is set."""
    fields = fields_of(section)
    header = f"[{section}]" if any(field.begins for field in fields) else f"# [{section}]"
    return "\n".join((_ABOUT.get(section, "") + header, *map(_template_line, fields), ""))


def _credentials_text() -> str:
    """A table of `[credentials.NAME]`, as comments."""
    from nono_trio.core.profile.credential_table import KEYS  # late: other commands don't need it

    lines = (f"# {one.name} = {one.example}" for one in KEYS)
    return "\n".join((_ABOUT_CREDENTIALS, *lines, ""))


def _template_line(field: Field) -> str:
    mark = "" if field.begins else "# "
    note = f"  # {field.note}" if field.note else ""
    return f"{mark}{field.name} = {field.example}{note}"


def profile_fields(loaded: Loaded) -> dict[str, Any]:
    """The whole profile as data; `origins` by dotted key and entry ("" for single values)."""
    found, sourced = loaded.found, loaded.sourced
    origins = [
        {"key": key, "entry": entry, "origin": str(origin)}
        for (key, entry), origin in sourced.origins.items()
        if key != "extends" and not key.startswith("meta.")
    ]
    fields: dict[str, Any] = {
        "name": found.name,
        "source": found.source,
        "path": str(found.path),
        "chain": [one.shown for one in loaded.chain],
        "profile": msgspec.to_builtins(_flattened(sourced)),
        "origins": origins,
    }
    registries = _registries(sourced)
    if registries is not None:
        fields[PACKAGE_REGISTRIES] = {
            "hosts": registries.entries,
            "warnings": registries.warnings,
        }
    return fields


def profile_lines(loaded: Loaded) -> Iterator[str]:
    """The whole profile as TOML."""
    yield f"# {clean(loaded.found.name)}, with all it extends: " + ", ".join(
        clean(one.shown) for one in loaded.chain
    )
    profile = _flattened(loaded.sourced)
    for table in msgspec.structs.fields(Profile):
        fields = msgspec.to_builtins(getattr(profile, table.name))
        if table.name == "extends" or not fields:
            continue
        if table.name == "credentials":
            yield from _credential_lines(loaded.sourced)
            continue
        yield ""
        yield f"[{table.name}]"
        for name in fields:
            value = getattr(getattr(profile, table.name), name)
            yield from _field_lines(loaded.sourced, f"{table.name}.{name}", name, value)
    registries = _registries(loaded.sourced)
    if registries is not None:
        yield ""
        hosts = " ".join(registries.entries) or "nothing"
        yield f"# {PACKAGE_REGISTRIES} on this machine: {clean(hosts)}"
        yield from (f"# {clean(warning)}" for warning in registries.warnings)


def _credential_lines(sourced: SourcedProfile) -> Iterator[str]:
    """Each table of `[credentials.NAME]`."""
    for name, table in sourced.profile.credentials.items():
        yield ""
        yield f"[credentials.{_key(name)}]{_comment(sourced, f'credentials.{name}', '')}"
        for key in msgspec.to_builtins(table):
            value = getattr(table, key)
            yield from _field_lines(sourced, f"credentials.{name}.{key}", key, value)


def _flattened(sourced: SourcedProfile) -> Profile:
    """The profile without `extends`: what it extends is in it."""
    return msgspec.structs.replace(sourced.profile, extends=[])


def _field_lines(sourced: SourcedProfile, key: str, name: str, value: Any) -> Iterator[str]:  # noqa: ANN401  (whatever the schema has there)
    if isinstance(value, list):
        yield f"{name} = ["
        for entry in value:
            yield f"  {_scalar(entry)},{_comment(sourced, key, entry)}"
        yield "]"
    elif isinstance(value, dict):
        for entry, text in value.items():
            yield f"{name}.{_key(entry)} = {_scalar(text)}{_comment(sourced, key, entry)}"
    else:
        comment = "" if key.startswith("meta.") else _comment(sourced, key, "")
        yield f"{name} = {_scalar(value)}{comment}"


def _comment(sourced: SourcedProfile, key: str, entry: object) -> str:
    origin = sourced.origin(key, entry)
    return f"  # {clean(str(origin))}" if origin is not None else ""


def _scalar(value: Any) -> str:  # noqa: ANN401  (text, number, truth, or a table of them)
    if isinstance(value, msgspec.Struct):
        value = msgspec.to_builtins(value)
    if isinstance(value, dict):
        pairs = (f"{_key(name)} = {_scalar(one)}" for name, one in value.items())
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_scalar, value))}]"
    return quoted(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else quoted(name)


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, values))}]"


def _registries(sourced: SourcedProfile) -> Registries | None:
    """Return this machine's registries if the profile has them."""
    network = sourced.profile.network
    if PACKAGE_REGISTRIES not in (*network.groups, *network.allow_domain, *network.deny_domain):
        return None
    directory = os.getcwd()
    home = path_variables(os.environ, directory)["HOME"]
    return read_registries(os.environ, home, [directory])
