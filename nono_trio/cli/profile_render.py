"""A profile written out: as TOML with the origin of every entry, as JSON, and as a beginning.

Rules of this file: what is printed as TOML is a profile again; text of a profile goes into it
quoted, whatever is in it, and into comments cleaned.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from nono_trio.cli.text import clean
from nono_trio.config.registries import Registries, read_registries
from nono_trio.config.user_paths import path_variables
from nono_trio.core.policy.host_groups import PACKAGE_REGISTRIES
from nono_trio.core.profile.schema import Profile
from nono_trio.core.profile.values import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nono_trio.config.profiles import Loaded
    from nono_trio.core.profile.schema import Sourced

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

_TEMPLATE: Final = """\
extends = {extends}

[meta]
name = {name}
description = "What it is for"

# Paths: relative ones begin in the working directory. Variables: $WORKDIR $HOME $TMPDIR
# $XDG_CONFIG_HOME $XDG_CACHE_HOME $XDG_DATA_HOME $XDG_STATE_HOME, and ~.
[filesystem]
allow = ["$WORKDIR"]  # read and write below a directory
# read = ["~/tools"]
# write = []
# allow_file = []
# read_file = ["~/.gitconfig"]
# write_file = []
# allow_unix_socket = []  # sockets of the host that may be connected to
# deny = ["$WORKDIR/.env"]  # stays closed inside a grant
# bypass_protection = []  # lifts what is protected; grant it as well
# home = "kept"  # the command's own home, kept for the next run; or kept=NAME, private, closed
# home_seed = ["~/.config/tool/settings.toml"]  # copied into a new kept home, once

# Hosts: HOST, HOST:PORT, *.SUFFIX. Without a port an allowed host means 80 and 443.
# tls://HOST: its TLS may hide the name (ECH). tcp://HOST:PORT: whatever is spoken there.
[network]
allow_domain = []
# deny_domain = []  # wins over every allow
# groups = ["llm_apis", "github", "package_registries"]
# resolve = ["api.example.com:443:127.0.0.1"]
# upstream_proxy = "env"  # or http(s)://[USER@]HOST:PORT: the proxy behind this one
# upstream_proxy_password = "file://~/.proxy-password"  # or env://VARIABLE
# upstream_bypass = ["*.internal.example"]  # reached without it
# open_port = [5432]  # a port of this machine's loopback
# listen_port = [8080]  # a port of the command
# block = false  # true: no network at all

# Variables that look like secrets are held back unless they are named here.
# [environment]
# allow = ["MY_API_KEY"]
# deny = ["MY_*"]
# set = {{ CI = "1" }}

# [audit]
# mode = "strict"  # or best-effort
# sync = "interval"  # or always, never
# queue = 16384

# [limits]
# timeout = 3600  # seconds
# memory = "2G"
# max_processes = 256
# max_open_files = 4096
"""


def template(name: str, extends: Sequence[str]) -> str:
    """The text of a new profile."""
    bases = quoted(extends[0]) if len(extends) == 1 else _list(extends)
    return _TEMPLATE.format(name=quoted(name), extends=bases)


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
        yield ""
        yield f"[{table.name}]"
        for name, value in fields.items():
            yield from _field_lines(loaded.sourced, f"{table.name}.{name}", name, value)
    registries = _registries(loaded.sourced)
    if registries is not None:
        yield ""
        hosts = " ".join(registries.entries) or "nothing"
        yield f"# {PACKAGE_REGISTRIES} on this machine: {clean(hosts)}"
        yield from (f"# {clean(warning)}" for warning in registries.warnings)


def _flattened(sourced: Sourced) -> Profile:
    """The profile without `extends`: what it extends is in it."""
    return msgspec.structs.replace(sourced.profile, extends=[])


def _field_lines(sourced: Sourced, key: str, name: str, value: Any) -> Iterator[str]:  # noqa: ANN401  (whatever the schema has there)
    if isinstance(value, list):
        yield f"{name} = ["
        for entry in value:
            yield f"  {_scalar(entry)},{_comment(sourced, key, entry)}"
        yield "]"
    elif isinstance(value, dict):
        for entry, text in value.items():
            key_text = entry if _BARE_KEY.fullmatch(entry) else quoted(entry)
            yield f"{name}.{key_text} = {_scalar(text)}{_comment(sourced, key, entry)}"
    else:
        comment = "" if key.startswith("meta.") else _comment(sourced, key, "")
        yield f"{name} = {_scalar(value)}{comment}"


def _comment(sourced: Sourced, key: str, entry: object) -> str:
    origin = sourced.origin(key, entry)
    return f"  # {clean(str(origin))}" if origin is not None else ""


def _scalar(value: Any) -> str:  # noqa: ANN401  (text, number or truth)
    return quoted(value) if isinstance(value, str) else msgspec.json.encode(value).decode()


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(quoted, values))}]"


def _registries(sourced: Sourced) -> Registries | None:
    """What this machine's registries are, for a profile that takes them in."""
    network = sourced.profile.network
    if PACKAGE_REGISTRIES not in (*network.groups, *network.allow_domain, *network.deny_domain):
        return None
    directory = os.getcwd()
    home = path_variables(os.environ, directory)["HOME"]
    return read_registries(os.environ, home, [directory])
