"""Environment variables by name: those that are never passed on, secrets, and those that a rule
names.

Rules of this file:
- A variable that makes an interpreter, loader or version-control tool run other code is never
  passed on, whatever a pattern says. Only nono-trio sets its own names.
- A variable that looks like a secret is held back unless a pattern allows it. The words of its name
  decide, because no list of services is complete. Its value decides if it is a URL with a password.
- Of all patterns that match, the longest decides; of two equally long ones, deny does. So one
  variable can be removed from a family, or let through from one.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Upstream's block list, completed: with each of these, the setter runs code in, or redirects, a
# program that the child starts.
DANGEROUS_NAMES: Final = frozenset(
    """
    BASH_ENV ENV CDPATH GLOBIGNORE PROMPT_COMMAND IFS SHELLOPTS BASHOPTS PS4
    PYTHONSTARTUP PYTHONPATH PYTHONHOME PYTHONBREAKPOINT PYTHONINSPECT PYTHONEXECUTABLE
    NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE
    PERL5OPT PERL5LIB PERL5DB PERLLIB RUBYOPT RUBYLIB RUBYSHELL GEM_PATH GEM_HOME
    JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS JAVA_OPTS DOTNET_STARTUP_HOOKS
    GOFLAGS RUSTC_WRAPPER RUSTC_WORKSPACE_WRAPPER
    GIT_SSH GIT_SSH_COMMAND GIT_EXTERNAL_DIFF GIT_ASKPASS GIT_EDITOR GIT_PAGER GIT_PROXY_COMMAND
    GIT_EXEC_PATH GIT_TEMPLATE_DIR SSH_ASKPASS SSH_AUTH_SOCK GPG_AGENT_INFO
    LESSOPEN LESSCLOSE GCONV_PATH NLSPATH LOCPATH HOSTALIASES RES_OPTIONS LOCALDOMAIN
    GLIBC_TUNABLES MALLOC_TRACE TMUX STY DBUS_SESSION_BUS_ADDRESS DBUS_SYSTEM_BUS_ADDRESS
    DOCKER_HOST XDG_RUNTIME_DIR WAYLAND_DISPLAY DISPLAY XAUTHORITY
    OP_SERVICE_ACCOUNT_TOKEN OP_CONNECT_TOKEN OP_CONNECT_HOST
    """.split()  # noqa: SIM905  (seventy names read better as text)
)
# Variables of that list that lead to a service of the user's session, with the power of that
# service. One is passed on only if its socket was granted.
SOCKETS: Final = {
    "SSH_AUTH_SOCK": "your ssh agent, which signs with every key that it holds",
    "GPG_AGENT_INFO": "your gpg agent, which signs and decrypts with your keys",
    "DOCKER_HOST": "your container engine, which runs anything outside the cage",
    "DISPLAY": "your screen and keyboard, which it can watch and type on",
    "WAYLAND_DISPLAY": "your screen and keyboard",
    "XDG_RUNTIME_DIR": "the sockets of every service of your session",
    "DBUS_SESSION_BUS_ADDRESS": "your session's bus, which starts programs outside the cage",
    "DBUS_SYSTEM_BUS_ADDRESS": "the system's bus, which acts for the whole machine",
}
_DISPLAY: Final = late_pattern(r"(?:unix)?:([0-9]{1,5})(?:\.[0-9]{1,5})?")
DANGEROUS_PREFIXES: Final = (
    "LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "OP_SESSION_", "NONO_",
)  # fmt: skip

# The variables in which programs find the proxy; only nono-trio sets them, in either case.
PROXY_NAMES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_OURS: Final = frozenset({*PROXY_NAMES, "NO_PROXY", "FTP_PROXY", "NODE_USE_ENV_PROXY"})

# A name is a secret's if one of its words is one of these ...
_SECRET_WORDS: Final = frozenset(
    "TOKEN TOKENS KEY KEYS PAT JWT AUTH PASS PWD COOKIE COOKIES".split()  # noqa: SIM905
)
# ... or if it contains one of these, which are not part of other words.
_SECRET_PARTS: Final = (
    "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "APIKEY", "AUTHTOKEN",
)  # fmt: skip
# A family whose known members are harmless, and whose others open an account.
_SECRET_PREFIX: Final = "AWS_"
# Names that match the rules above and are not secrets: the shell's two directories, and settings of
# that family.
_NOT_SECRET: Final = frozenset(
    {
        "PWD",
        "OLDPWD",
        "AWS_CA_BUNDLE",
        "AWS_DEFAULT_OUTPUT",
        "AWS_DEFAULT_REGION",
        "AWS_MAX_ATTEMPTS",
        "AWS_PAGER",
        "AWS_REGION",
        "AWS_RETRY_MODE",
    }
)

# Variables that programs need. They count as allowed by name: only a deny of the exact name removes
# one, a pattern does not.
_ESSENTIAL: Final = frozenset(
    "PATH HOME USER LOGNAME SHELL LANG LANGUAGE TERM COLORTERM TZ PWD TMPDIR".split()  # noqa: SIM905
)

_PATTERN: Final = late_pattern(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*")
_NAME: Final = late_pattern(r"[A-Za-z_][A-Za-z0-9_]*")
_URL_PASSWORD: Final = late_pattern(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]*:[^/?#\s@]+@")
# In a proxy variable the scheme may be missing: RSYNC_PROXY never has one, curl needs none.
_PROXY_PASSWORD: Final = late_pattern(r"[^/?#\s:@]*:[^/?#\s@]+@")


class VariableRules(msgspec.Struct, frozen=True):
    """Patterns as given: exact names, or a beginning followed by one `*`."""

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()

    def without(self, name: str | None) -> VariableRules:
        """Return these rules with one more name that is never passed on."""
        return self if name is None else VariableRules(self.allow, (*self.deny, name))


class Inherited(msgspec.Struct, frozen=True):
    """The variables that are passed on, and the names of the secrets held back (sorted)."""

    passed: dict[str, str]
    held_back: tuple[str, ...]


def is_dangerous(name: str) -> bool:
    """Return True if a variable of this name is never passed on."""
    return name in DANGEROUS_NAMES or name.startswith(DANGEROUS_PREFIXES)


def is_secret(name: str, value: str) -> bool:
    """Return True if a variable looks like a secret."""
    upper = name.upper()
    if upper in _NOT_SECRET:
        return False
    return (
        upper.startswith(_SECRET_PREFIX)
        or any(part in upper for part in _SECRET_PARTS)
        or not _SECRET_WORDS.isdisjoint(re.split(r"[^A-Z]+", upper))
        or _URL_PASSWORD.search(value) is not None
        or (upper.endswith("PROXY") and _PROXY_PASSWORD.match(value) is not None)
    )


def inherit(environment: Mapping[str, str], rules: VariableRules) -> Inherited:
    """Return the variables of the caller's environment to pass on; dangerous names never are."""
    passed: dict[str, str] = {}
    held_back: list[str] = []
    for name, value in environment.items():
        if is_dangerous(name) or name.upper() in _OURS:
            continue
        named = _named(name, rules)
        if named is None and is_secret(name, value):
            held_back.append(name)
        elif named is not False:
            passed[name] = value
    return Inherited(passed, tuple(sorted(held_back)))


def check_pattern(pattern: str) -> None:
    """Raise UsageError for a text that is neither a name nor a beginning with `*`."""
    if not _PATTERN.fullmatch(pattern):
        raise UsageError(
            f"expected the name of a variable, got {pattern!a}",
            hint="a * is allowed at the end: MY_*",
        )


def socket_path(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the path of the socket (or directory of sockets) that a variable of SOCKETS names.

    Returns None for another variable, and for a value without a path.
    """
    value = environment.get(name, "")
    if name not in SOCKETS or not value:
        return None
    if name == "DISPLAY":
        match = _DISPLAY.fullmatch(value)
        return None if match is None else f"/tmp/.X11-unix/X{match[1]}"
    if name == "WAYLAND_DISPLAY" and not value.startswith("/"):
        value = f"{environment.get('XDG_RUNTIME_DIR', '')}/{value}"
    for scheme in ("unix://", "unix:path="):
        value = value.removeprefix(scheme)
    path = value.partition(",")[0] if name.startswith("DBUS_") else value
    path = path.partition(":")[0] if name == "GPG_AGENT_INFO" else path
    return path if path.startswith("/") else None


def check_allow(pattern: str, environment: Mapping[str, str] | None = None) -> None:
    """As `check_pattern`; raises also for a name that is never passed on.

    `environment` is the caller's; the hint takes the path of a socket from it.
    """
    check_pattern(pattern)
    if (opens := SOCKETS.get(pattern)) is not None:
        raise UsageError(
            f"{pattern} is not passed on without its socket: it leads to {opens}",
            hint=_socket_hint(pattern, environment or {}),
        )
    if is_dangerous(pattern):
        raise UsageError(
            f"{pattern} is never passed on: variables like it run code in what the command starts,"
            " or lead to what is yours",
            hint="a profile's environment.set gives the command a value of its own",
        )


def _socket_hint(name: str, environment: Mapping[str, str]) -> str:
    path = socket_path(name, environment)
    if path is None and environment.get(name):
        return "its value names no socket; a profile's environment.set gives the command the value"
    named = "with its path" if path is None else shlex.quote(path)
    return f"--allow-unix-socket {named} gives the socket, and {name} with it"


def check_set(name: str) -> None:
    """Raise UsageError for a name that a profile can't set."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"expected the name of a variable, got {name!a}")
    if name == "PATH" or name.startswith("NONO_") or name.upper() in _OURS:
        raise UsageError(
            f"{name} can't be set",
            hint="PATH stays the caller's; the proxy's variables and NONO_* are ours",
        )


def _named(name: str, rules: VariableRules) -> bool | None:
    """Return what the patterns say of a name; None if none matches."""
    allow = max((_weight(one, name) for one in rules.allow), default=0)
    deny = max((_weight(one, name) for one in rules.deny), default=0)
    if name in _ESSENTIAL or name.startswith("LC_"):
        allow = max(allow, _weight(name, name))
    return allow > deny if allow or deny else None


def _weight(pattern: str, name: str) -> int:
    """Return how specific a pattern is; 0 if it does not match."""
    if not pattern.endswith("*"):
        return 2 * len(name) + 2 if pattern == name else 0
    return 2 * len(pattern) - 1 if name.startswith(pattern[:-1]) else 0
