#!/usr/bin/env python3
"""Print docs/options.md: every field of a profile with its flag, from the declarations.

.venv/bin/python scripts/options_page.py > docs/options.md
"""

from nono_trio.cli.shared_flags import environment_twin
from nono_trio.core.profile.fields import SECTIONS, fields_of

HEAD = """\
# Options and profile fields

Each field of a profile, the flag of `nono-trio run` that gives the same, and the flag's variable.
This page is made from the declarations in `nono_trio/core/profile/fields.py` by
`scripts/options_page.py`; `nono-trio run --help` lists the flags that no profile has as well.

- A flag beats its variable, a variable beats a profile, a later profile beats an earlier one.
- Lists add up: flags, variable and profiles together. A deny from any of them holds.
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
