"""The child's environment: what is passed on, what never is, and how programs find the proxy.

Rules: a variable that makes an interpreter, loader or version-control tool run somebody's code is
never passed on; our own names are set by us alone; values are passed as they are, in memory only
(the launcher gets them over its socket, never through argv).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Upstream's block list, completed: each name lets whoever set it run code in, or redirect, a
# program that the child starts.
DANGEROUS_NAMES = frozenset(
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
DANGEROUS_PREFIXES = ("LD_", "DYLD_", "BASH_FUNC_", "GIT_CONFIG", "OP_SESSION_", "NONO_")

_PROXY_NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
# The child's own servers on its own loopback. One that a rule allows is a service of the host
# instead, and the host's loopback is reached through the proxy only.
_OWN_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_dangerous(name: str) -> bool:
    """Tell whether a variable of this name is never passed on."""
    return name in DANGEROUS_NAMES or name.startswith(DANGEROUS_PREFIXES)


def child_environment(
    inherited: Mapping[str, str], *, token: str, port: int, allowed: Sequence[str]
) -> dict[str, str]:
    """Return the child's environment: `inherited` without what is dangerous, plus the proxy.

    `allowed` are the host rules as given: a loopback name among them goes through the proxy.
    """
    environment = {
        name: value
        for name, value in inherited.items()
        if not is_dangerous(name) and name.upper() not in (*_PROXY_NAMES, "NO_PROXY", "FTP_PROXY")
    }
    url = proxy_url(token, port)
    for name in _PROXY_NAMES:
        environment[name] = environment[name.lower()] = url
    environment["NO_PROXY"] = environment["no_proxy"] = _no_proxy(allowed)
    environment["NODE_USE_ENV_PROXY"] = "1"
    environment["NONO_PROXY_TOKEN"] = token
    return environment


def _no_proxy(allowed: Sequence[str]) -> str:
    """Return the names that programs reach without the proxy."""
    hosts = {_host_of(entry) for entry in allowed}
    return ",".join(name for name in _OWN_LOOPBACK if name not in hosts)


def _host_of(entry: str) -> str:
    if entry.startswith("["):
        return entry[1:].partition("]")[0]
    host, colon, _ = entry.rpartition(":")
    return (host if colon and ":" not in host else entry).lower()


def proxy_url(token: str, port: int, host: str = "127.0.0.1") -> str:
    """Return the URL that clients take from HTTP_PROXY."""
    return f"http://nono:{token}@{host}:{port}"
