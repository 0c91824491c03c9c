#!/usr/bin/env python3
"""Print docs/options.md: every field of a profile with its flag, from the declarations.

.venv/bin/python scripts/options_page.py > docs/options.md
"""

from nono_trio.cli.shared_flags import environment_twin
from nono_trio.core.profile.fields import SECTIONS, fields_of

HEAD = """\
# Options and profile fields

This page lists each field of a profile, the flag of `nono-trio run` with the same effect, and the
flag's variable. `nono-trio run --help` also lists the flags without a profile field.
`scripts/options_page.py` makes this page from `nono_trio/core/profile/fields.py`.

- A flag beats its variable, a variable beats a profile, a later profile beats an earlier one.
- Your own defaults are in `$XDG_CONFIG_HOME/nono-trio/config.toml`, which has the form of a
  profile. Each session starts from it, and a profile beats it. A cage can't write it, as it can't
  write your profiles.
- Lists of flags, variable, profiles and defaults add up. A deny from any of them wins.
- `nono-trio profile init NAME` writes a file with every field.
"""
MERGE = {"adds_up": "a list, adds up", "replaces": "one value", "by_name": "a table, by name"}


def row(field):
    flag = f"`{field.flags[0]}`" if field.flags else "none"
    variable = f"`{environment_twin(field.flags[0])}`" if field.flags else "none"
    cells = (
        f"`{field.name}`",
        flag,
        variable,
        MERGE[field.merge],
        f"`{field.example}`",
        field.help,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page():
    lines = [HEAD]
    for section in SECTIONS:
        lines += [
            f"## [{section}]\n",
            "| field | flag | variable | kind | example | meaning |",
            "|---|---|---|---|---|---|",
            *map(row, fields_of(section)),
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
