#!/usr/bin/env python3
"""Print docs/options.md: every field of a profile and every flag of `run`, from the declarations.

.venv/bin/python scripts/options_page.py > docs/options.md
"""

from nono_trio.cli.option_help import GROUPS, GroupedOption
from nono_trio.cli.run import run
from nono_trio.cli.shared_flags import environment_twin
from nono_trio.core.profile.credential_table import KEYS
from nono_trio.core.profile.fields import FIELDS, SECTIONS, fields_of

HEAD = """\
# Options and profile fields

This page lists each field of a profile, the flag of `nono-trio run` with the same effect, and the
flag's variable. The flags without a profile field are at its end. `scripts/options_page.py` makes
this page from `nono_trio/core/profile/fields.py` and `nono_trio/cli/flags.py`, as `run --help` is.

- A flag beats its variable, a variable beats a profile, a later profile beats an earlier one.
- Your own defaults are in `$XDG_CONFIG_HOME/nono-trio/config.toml`, which has the form of a
  profile. Each session starts from it, and a profile beats it. A cage can't write it, as it can't
  write your profiles.
- Lists of flags, variable, profiles and defaults add up. A deny from any of them wins.
- `nono-trio profile init NAME` writes a file with every field.
"""
CREDENTIALS = """\
A table for each credential, whose secret the command never has (`docs/credentials.md`). If NAME is
a known service, what is left out is the service's. `--credential NAME=SOURCE@HOST` goes over a
table.
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
        f"{field.help} {field.details}".rstrip(),
    )
    return table_row(cells)


def table_row(cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def other_flags():
    """The flags that no field of a profile has, in the order of the groups of `run --help`."""
    parameters = {field.parameter for field in FIELDS}
    options = [one for one in run.params if isinstance(one, GroupedOption)]
    for group, title in GROUPS.items():
        for one in options:
            if one.group == group and one.name not in parameters:
                variable = f"`{one.envvar}`" if one.envvar else "none"
                yield table_row((title, f"`{one.opts[-1]}`", variable, one.help))


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
    lines += [
        "## [credentials.NAME]\n",
        CREDENTIALS,
        "| field | kind | example | meaning |",
        "|---|---|---|---|",
        *(
            table_row((f"`{one.name}`", MERGE[one.merge], f"`{one.example}`", one.help))
            for one in KEYS
        ),
        "",
    ]
    lines += [
        "## Flags without a profile field\n",
        "| group | flag | variable | meaning |",
        "|---|---|---|---|",
        *other_flags(),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
