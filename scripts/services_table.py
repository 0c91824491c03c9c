#!/usr/bin/env python3
"""Print the table of services of docs/credentials.md, from the presets.

.venv/bin/python scripts/services_table.py
"""

from nono_trio.core.credentials.presets import PRESETS

SHOWN_HOSTS = 3
HEAD = """\
| name | hosts | how its clients send the secret | places | variables | endpoint rules |
|---|---|---|---|---|---|"""


def row(name, preset):
    hosts = [f"`{host}`" for host in preset.hosts]
    if len(hosts) > SHOWN_HOSTS:
        hosts = [*hosts[: SHOWN_HOSTS - 1], f"{len(preset.hosts) - SHOWN_HOSTS + 1} more"]
    cells = (
        f"`{name}`",
        ", ".join(hosts) or "yours: `@HOST`",
        preset.shown_as,
        ", ".join(sorted(preset.places)),
        ", ".join(f"`{one}`" for one in preset.variables),
        "all requests" if preset.methods == "*" else f"`{preset.methods}`",
    )
    return "| " + " | ".join(cells) + " |"


def table():
    return "\n".join([HEAD, *(row(name, preset) for name, preset in PRESETS.items())])


if __name__ == "__main__":
    print(table())
