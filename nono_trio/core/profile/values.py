"""Checks of a profile's entries beyond their type, and the variables in them.

Rules of this file: the functions that check the flags check host rules, patterns and sizes too, so
there is one set of rules. Only a short list of variables is known, because a path that silently
lost a part would grant another directory.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.core.policy.allowed_host import parse_allowed
from nono_trio.core.policy.home_choice import parse_home
from nono_trio.core.policy.host_groups import GROUP_NAMES
from nono_trio.core.policy.rule import parse_deny, parse_pin
from nono_trio.core.policy.upstream_proxy import check_bypass, check_upstream_proxy
from nono_trio.core.policy.variables import check_allow, check_pattern
from nono_trio.core.profile.size import parse_size
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from nono_trio.core.profile.fields import Kind

VARIABLES: Final = (
    "WORKDIR", "HOME", "TMPDIR",
    "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME",
)  # fmt: skip

_VARIABLE: Final = late_pattern(r"\$(?:\{(\w*)\}|(\w+)|(\$)|)")
# The copy of a seed finds out that it is outside the home: an XDG directory may lie anywhere.
_IN_HOME: Final = ("~/", "$HOME/", "${HOME}/", "$XDG_", "${XDG_")
_FLAG: Final = late_pattern(r"--[a-z-]+ ")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most similar."""
    import difflib  # slow to import, and needed for a mistake only

    found = difflib.get_close_matches(word, [*known], n=1)
    return found[0] if found else None


def suggestion(word: str, known: Iterable[str], what: str) -> str:
    """Return a hint: the nearest known word, or all of them."""
    names = [*known]
    near = nearest(word, names)
    return f"did you mean {near}?" if near else f"{what}: {', '.join(names)}"


def quoted(text: str) -> str:
    """Return a TOML basic string, in printable characters only.

    A profile is shown on a terminal, and a path in it may be one that a hostile command chose.
    """
    encoded = msgspec.json.encode(text).decode()
    if encoded.isprintable():
        return encoded
    return "".join(one if one.isprintable() else _escaped(one) for one in encoded)


def quoted_path(path: str) -> str:
    """Return a TOML basic string that `expand` turns into `path`: a dollar sign in a name must not
    become the user's home."""
    return quoted(path.replace("$", "$$"))


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$NAME`, `${NAME}` and a leading `~` by their values; `$$` is a dollar sign.

    Raises UsageError for an unknown variable; `variables` must have HOME and may lack others.
    """
    if text == "~" or text.startswith("~/"):
        text = "$HOME" + text[1:]
    return _VARIABLE.sub(lambda match: _value(match, variables), text)


def _value(match: re.Match[str], variables: Mapping[str, str]) -> str:
    if match[3]:
        return "$"
    name = match[1] or match[2]
    if not name or name not in VARIABLES:
        raise UsageError(
            f"unknown variable {match[0]}",
            hint=suggestion(name or "", VARIABLES, "write $$ for a dollar sign; variables")
            if name
            else "write $$ for a dollar sign",
        )
    if name not in variables:
        raise UsageError(f"{match[0]} has no value here", hint=f"set {name} in the environment")
    return variables[name]


def check_entry(kind: Kind, entry: str) -> None:
    """Raise UsageError for an invalid entry of a field of that kind; the text names no flag."""
    check = CHECKS.get(kind)
    if check is None:
        return
    try:
        check(entry)
    except UsageError as error:
        raise UsageError(_FLAG.sub("", error.message, count=1), hint=error.hint) from None


def _check_path(text: str) -> None:
    if not text or "\0" in text:
        raise UsageError(f"expected a path, got {text!a}")
    if text.startswith("~") and not (text == "~" or text.startswith("~/")):
        raise UsageError(f"expected ~/..., got {text!a}", hint="~ is your own home only")
    expand(text, dict.fromkeys(VARIABLES, "/x"))


def _check_group(text: str) -> None:
    if text not in GROUP_NAMES:
        raise UsageError(
            f"unknown group {text!a}", hint=suggestion(text, GROUP_NAMES, "the groups are")
        )


def _check_allowed_host(text: str) -> None:
    if text not in GROUP_NAMES:
        parse_allowed(text)


def _check_denied_host(text: str) -> None:
    if text not in GROUP_NAMES:
        parse_deny(text)


def _check_intercepted(text: str) -> None:
    from nono_trio.core.policy.endpoint_policy import check_intercept  # late: few profiles

    check_intercept(text)


def _check_excepted(text: str) -> None:
    from nono_trio.core.policy.endpoint_policy import check_no_intercept  # late: few profiles

    check_no_intercept(text)


def _check_endpoint(action: str) -> Callable[[str], object]:
    """Return the check of a rule with the action before it, "" if it has its own."""

    def check(text: str) -> None:
        from nono_trio.core.policy.endpoint_rule import require_methods  # late: few profiles
        from nono_trio.core.policy.rule_entry import parse_rule_entry

        if action == "allow ":
            require_methods(text)
        parse_rule_entry(action + text)

    return check


def _check_value(text: str) -> None:
    if "\0" in text:
        raise UsageError("expected text, got a NUL character in it")
    expand(text, dict.fromkeys(VARIABLES, "/x"))


def _check_seed(text: str) -> None:
    _check_path(text)
    if not text.startswith(_IN_HOME) or text.endswith("/") or ".." in text.split("/"):
        raise UsageError(
            f"expected a file of the home, got {text!a}", hint="for example ~/.config/tool/settings"
        )


def _check_secret(text: str) -> None:
    if not re.fullmatch(r"(env|file)://[^\0]+", text):
        raise UsageError(
            "expected env://VARIABLE or file://PATH",  # it may be the secret itself
            hint="as in file://~/secret, in a file of mode 0600",
        )


def check_host(text: str) -> None:
    """Raise UsageError for a name of a table that is no host."""
    from nono_trio.core.net.host import BadHost, parse_rule_host  # late: few profiles have one

    try:
        parse_rule_host(text)
    except BadHost as error:
        raise UsageError(
            f"expected a host, got {text!a}: {error.reason}", hint="as in api.example.com"
        ) from None


CHECKS: Final[dict[Kind, Callable[[str], object]]] = {
    "path": _check_path,
    "seed": _check_seed,
    "home": parse_home,
    "size": parse_size,
    "allowed_host": _check_allowed_host,
    "denied_host": _check_denied_host,
    "group": _check_group,
    "pin": parse_pin,
    "upstream_proxy": check_upstream_proxy,
    "bypass": check_bypass,
    "intercepted_host": _check_intercepted,
    "excepted_host": _check_excepted,
    "allowed_endpoint": _check_endpoint("allow "),
    "denied_endpoint": _check_endpoint("deny "),
    "endpoint": _check_endpoint(""),
    "allowed_mcp": _check_endpoint("allow mcp "),
    "denied_mcp": _check_endpoint("deny mcp "),
    "mcp": _check_endpoint(""),
    "allowed_variable": check_allow,
    "denied_variable": check_pattern,
    "value": _check_value,
    "secret": _check_secret,
}
