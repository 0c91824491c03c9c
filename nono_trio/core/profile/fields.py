"""The fields of a profile, each declared once.

A declaration gives the structures of schema.py, the checks of values.py, the click options, the way
that flags and profiles add up (config/resolve.py), the template of `profile init` and
docs/options.md. Rules of this file: it is data; every run imports it, so it imports nothing that
only a run with a profile needs; a field without a flag names the parameter that its entries join,
or config/resolve.py takes it by its key.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

# The kind of one entry. The words up to "number" are text; values.py checks them under that word.
Kind: TypeAlias = Literal[
    "text", "path", "seed", "home", "size",
    "allowed_host", "denied_host", "group", "pin", "upstream_proxy", "bypass",
    "intercepted_host", "excepted_host", "allowed_endpoint", "denied_endpoint", "endpoint",
    "allowed_mcp", "denied_mcp", "mcp",
    "allowed_variable", "denied_variable", "value", "secret",
    "switch", "choice", "whole_number", "seconds",
]  # fmt: skip
# A list whose entries add up, a single value that a later one replaces, a table merged by name.
Merge: TypeAlias = Literal["adds_up", "replaces", "by_name"]
Access: TypeAlias = Literal["read", "write", "readwrite", "socket"]

# Records that may wait for the log's writer: upstream's own proposal for its stream (PR #831). At
# 1 KiB a record this is 16 MiB at most, and 16,384 connections would have to wait at once: more
# than the proxy accepts.
QUEUE_RECORDS: Final = 16_384


class Field(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One key of a profile.

    `key` is dotted: section and name. `flags` are those of the command line; the first gives the
    name of the click parameter and of the environment variable; a field without flags is a
    profile's only. `joins` is the parameter that the entries of such a field are added to. `grant`
    is the access that a path of it gives, `single`: to that path alone and to nothing below it.
    `help` is for the command line, `details` for docs/options.md alone. `group` is that of the help
    where it is not the section's.
    `run_only`: `nono-trio proxy`, which takes the fields of its section, does not take this one.
    `example` is TOML for the template, `note` its comment; `begins`: the template has it as a
    setting, not as a comment.
    """

    key: str
    merge: Merge
    kind: Kind = "text"
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    above: bool = False  # `least` itself is not allowed
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    help: str = ""
    details: str = ""
    group: str = ""
    default: Any = None
    joins: str | None = None
    grant: Access | None = None
    single: bool = False
    run_only: bool = False
    example: str = "[]"
    note: str = ""
    begins: bool = False

    @property
    def section(self) -> str:
        """The table that it is in."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.key.partition(".")[2]

    @property
    def parameter(self) -> str | None:
        """The click parameter that has its value; None for a field that a profile alone has."""
        return self.flags[0].removeprefix("--").replace("-", "_") if self.flags else self.joins


FIELDS: Final = (
    Field(
        key="filesystem.allow", merge="adds_up", kind="path", grant="readwrite",
        flags=("--allow", "-a"), metavar="DIR", help="Read and write below DIR.",
        example='["$WORKDIR"]', note="read and write below a directory", begins=True,
    ),
    Field(
        key="filesystem.read", merge="adds_up", kind="path", grant="read",
        flags=("--read", "-r"), metavar="DIR", help="Read and execute below DIR.",
        example='["~/tools"]',
    ),
    Field(
        key="filesystem.write", merge="adds_up", kind="path", grant="write",
        flags=("--write", "-w"), metavar="DIR", help="Write below DIR.",
    ),
    Field(
        key="filesystem.allow_file", merge="adds_up", kind="path", grant="readwrite", single=True,
        flags=("--allow-file",), metavar="FILE", help="Read and write one file.",
    ),
    Field(
        key="filesystem.read_file", merge="adds_up", kind="path", grant="read", single=True,
        flags=("--read-file",), metavar="FILE", help="Read one file.",
        example='["~/.gitconfig"]',
    ),
    Field(
        key="filesystem.write_file", merge="adds_up", kind="path", grant="write", single=True,
        flags=("--write-file",), metavar="FILE", help="Write one file.",
    ),
    Field(
        key="filesystem.allow_unix_socket", merge="adds_up", kind="path", grant="socket",
        single=True,
        flags=("--allow-unix-socket",), metavar="PATH|DIR",
        help="Connect to a socket of the host, or to every one below DIR; recorded. What is behind"
        " it acts outside of the cage.",
        details="A socket below DIR that its server makes anew is found again (below your home or"
        " /tmp: only those that are there at the start). No file of DIR is opened.",
        note="sockets of the host that may be connected to",
    ),
    Field(
        key="filesystem.deny", merge="adds_up", kind="path",
        flags=("--deny",), metavar="PATH",
        help="Close a path inside a grant, with all that is below it.",
        example='["$WORKDIR/.env"]', note="stays closed inside a grant",
    ),
    Field(
        key="filesystem.bypass_protection", merge="adds_up", kind="path",
        flags=("--bypass-protection",), metavar="PATH",
        help="Lift the protection of a path (secrets, start-up files, our own code and profiles);"
        " grant it as well.",
        note="lifts what is protected; grant it as well",
    ),
    Field(
        key="filesystem.home", merge="replaces", kind="home",
        flags=("--home",), metavar="kept[=NAME]|private|closed",
        help="The command's home, which only cages see: kept for the next run of this profile in"
        " this directory (or of NAME), private to this one, or none  [default: private, or what the"
        " profile says]",
        example='"kept"',
        note="the command's own home, kept for the next run; or kept=NAME, private, closed",
    ),
    Field(
        key="filesystem.home_seed", merge="adds_up", kind="seed",
        help="Files of your home that are copied into a new kept home, once.",
        example='["~/.config/tool/settings.toml"]', note="copied into a new kept home, once",
    ),
    Field(
        key="network.block", merge="replaces", kind="switch",
        flags=("--block-net",),
        help="Allow nothing at all; what is asked of the proxy is denied and recorded.",
        example="false", note="true: no network at all",
    ),
    Field(
        key="network.allow_domain", merge="adds_up", kind="allowed_host",
        flags=("--allow-domain", "--allow-proxy", "--proxy-allow"), metavar="HOST[:PORT]",
        help="Allow a host (ports 80 and 443, or the one given, or :* for any); *.SUFFIX for"
        " every name below it; a group (github, llm_apis, package_registries, ...) for its hosts;"
        " tls://HOST[:PORT] for TLS that may hide its name (ECH) or omit it; tcp://HOST:PORT for"
        " any protocol; https://HOST/PATH for these paths.",
        details="In a path * is one segment, ** any number.",
        begins=True,
    ),
    Field(
        key="network.deny_domain", merge="adds_up", kind="denied_host",
        flags=("--deny-domain",), metavar="HOST[:PORT]",
        help="Deny a host; wins over every --allow-domain.",
        note="wins over every allow",
    ),
    Field(
        key="network.groups", merge="adds_up", kind="group", joins="allow_domain",
        help="Names of groups of hosts, as --allow-domain takes them.",
        example='["llm_apis", "github", "package_registries"]',
    ),
    Field(
        key="network.intercept", merge="adds_up", kind="intercepted_host", group="requests",
        flags=("--intercept",), metavar="HOST|*.SUFFIX|all",
        help="See the requests to a host: its TLS is ended here, each request is recorded. Hosts"
        " with endpoint or MCP rules are always seen.",
        example='["api.example.com"]', note="requests to them are seen and recorded; or all",
    ),
    Field(
        key="network.no_intercept", merge="adds_up", kind="excepted_host", group="requests",
        flags=("--no-intercept",), metavar="HOST|*.SUFFIX",
        help="Leave the TLS of a host alone; wins over --intercept.",
        example='["pinned.example.com"]', note="wins over intercept",
    ),
    Field(
        key="network.allow_endpoint", merge="adds_up", kind="allowed_endpoint", group="requests",
        flags=("--allow-endpoint",), metavar="'METHOD[,METHOD] URL'",
        help="Allow requests by method and path, as in 'GET,HEAD https://api.example.com/v1/**',"
        " and nothing else of that host: * is one segment of a path, ** any number, * every method,"
        " read-only what reads (git fetch too, but not git push).",
        example='["read-only https://github.com/my-org/**"]',
        note="and nothing else of these hosts",
    ),
    Field(
        key="network.deny_endpoint", merge="adds_up", kind="denied_endpoint", group="requests",
        flags=("--deny-endpoint",), metavar="'METHOD[,METHOD] URL'",
        help="Deny requests by method and path; wins over every --allow-endpoint and"
        " --allow-domain.",
        example='["DELETE https://api.example.com/**"]', note="wins over every allow",
    ),
    Field(
        key="network.endpoint", merge="adds_up", kind="endpoint", joins="endpoint",
        help="Endpoint rules as tables: host (HOST, HOST:PORT, http://HOST), methods, path, query,"
        " action (allow, deny, audit), allow_encoded_slash.",
        example='[{ host = "api.example.com", methods = ["GET"], path = "/v1/**" }]',
        note="action: allow, deny or audit; also as [[network.endpoint]]",
    ),
    Field(
        key="network.allow_mcp_tool", merge="adds_up", kind="allowed_mcp", group="mcp",
        flags=("--allow-mcp-tool",), metavar="'TOOL[,TOOL] URL'",
        help="Allow calls of tools of an MCP server, as in"
        " 'search_*,get_issue https://mcp.example.com/mcp', and no other tool there: * is any text"
        " in a name, method:NAME is a method of MCP as resources/read. GET and DELETE of the URL"
        " are allowed too, so name the server's path: without one it is every path of the host.",
        example='["search_* https://mcp.example.com/mcp"]',
        note="and no other tools of these servers",
    ),
    Field(
        key="network.deny_mcp_tool", merge="adds_up", kind="denied_mcp", group="mcp",
        flags=("--deny-mcp-tool",), metavar="'TOOL[,TOOL] URL'",
        help="Deny calls of tools of an MCP server; wins over every --allow-mcp-tool. A batch with"
        " such a call is denied as a whole.",
        example='["delete_* https://mcp.example.com/mcp"]', note="wins over every allow",
    ),
    Field(
        key="network.mcp", merge="adds_up", kind="mcp", joins="endpoint",
        help="MCP rules as tables: host (HOST, HOST:PORT, http://HOST), path, tools, methods,"
        " action (allow, deny, audit).",
        example='[{ host = "mcp.example.com", path = "/mcp", tools = ["search_*"] }]',
        note="action: allow, deny or audit; also as [[network.mcp]]",
    ),
    Field(
        key="network.resolve", merge="adds_up", kind="pin",
        flags=("--resolve",), metavar="HOST:PORT:ADDR",
        help="Pin the address of a name, as curl does.",
        example='["api.example.com:443:127.0.0.1"]',
    ),
    Field(
        key="network.upstream_proxy", merge="replaces", kind="upstream_proxy",
        flags=("--upstream-proxy",), metavar="URL|env",
        help="Go out through an HTTP proxy: http(s)://[USER@]HOST:PORT, or env for the one that"
        " HTTPS_PROXY and NO_PROXY name. It resolves the names.",
        example='"env"', note="or http(s)://[USER@]HOST:PORT: the proxy behind this one",
    ),
    Field(
        key="network.upstream_proxy_password", merge="replaces",
        flags=("--upstream-proxy-password",), metavar="env://VAR|file://PATH",
        help="The password of the upstream proxy's user.",
        example='"file://~/.proxy-password"', note="or env://VARIABLE",
    ),
    Field(
        key="network.upstream_bypass", merge="adds_up", kind="bypass",
        flags=("--upstream-bypass",), metavar="HOST|*.SUFFIX",
        help="Reach a host without the upstream proxy.",
        example='["*.internal.example"]', note="reached without it",
    ),
    Field(
        key="network.tls_ca", merge="by_name", kind="path",
        help="Roots for single hosts, instead of the system's, where requests are seen: the file"
        " (PEM) by host.",
        example='{ "api.internal.example" = "~/ca.pem" }', note="the roots of single hosts",
    ),
    Field(
        key="network.client_cert", merge="by_name", kind="path",
        help="Certificates that are shown to single hosts where requests are seen: the file (PEM)"
        " by host; network.client_key has the key.",
        example='{ "api.internal.example" = "~/client.pem" }',
        note="shown to single hosts, with client_key",
    ),
    Field(
        key="network.client_key", merge="by_name", kind="secret",
        help="The keys of network.client_cert (PEM, unencrypted): env://VARIABLE or file://PATH"
        " by host.",
        example='{ "api.internal.example" = "file://~/client.key" }', note="or env://VARIABLE",
    ),
    Field(
        key="network.open_port", merge="adds_up", kind="whole_number", least=1, most=65_535,
        flags=("--open-port",), metavar="PORT", run_only=True,
        help="Let the command reach PORT of the host's loopback; relayed and recorded.",
        example="[5432]", note="a port of this machine's loopback",
    ),
    Field(
        key="network.listen_port", merge="adds_up", kind="whole_number", least=1, most=65_535,
        flags=("--listen-port",), metavar="PORT", run_only=True,
        help="Let the host reach PORT of the command; relayed and recorded.",
        example="[8080]", note="a port of the command",
    ),
    Field(
        key="environment.allow", merge="adds_up", kind="allowed_variable",
        flags=("--env-allow",), metavar="PATTERN",
        help="Pass on variables that look like secrets (*_TOKEN, *_KEY, *PASSWORD*, AWS_*, a URL"
        " with a password, ...) and are held back otherwise: a name, or a beginning with *."
        " Names like LD_PRELOAD or PYTHONPATH never pass.",
        example='["MY_API_KEY"]',
    ),
    Field(
        key="environment.deny", merge="adds_up", kind="denied_variable",
        flags=("--env-deny",), metavar="PATTERN",
        help="Hold variables back; of the patterns that fit the longest decides, and deny on a"
        " tie. PATH, HOME, LANG, TERM and the like need their exact name.",
        example='["MY_*"]',
    ),
    Field(
        key="environment.set", merge="by_name", kind="value",
        help="Variables that the command gets, with their values.",
        example='{ CI = "1" }',
    ),
    Field(
        key="audit.mode", merge="replaces", kind="choice", choices=("strict", "best-effort"),
        flags=("--audit-mode",), default="strict",
        help="When the log can't be written: stop, or count the loss.",
        example='"strict"', note="or best-effort",
    ),
    Field(
        key="audit.sync", merge="replaces", kind="choice", choices=("always", "interval", "never"),
        flags=("--audit-sync",), default="interval",
        help="When a record is on disk before its request goes on: every batch, within a second, or"
        " when the system likes.",
        example='"interval"', note="or always, never",
    ),
    # One record at a time still works, a million is a gigabyte.
    Field(
        key="audit.queue", merge="replaces", kind="whole_number", least=1, most=1_000_000,
        flags=("--audit-queue",), metavar="N", default=QUEUE_RECORDS,
        help="Records that may wait in it.",
        example=str(QUEUE_RECORDS),
    ),
    Field(
        key="audit.sign_key", merge="replaces",
        flags=("--audit-sign-key",), metavar="NAME|FILE|cmd://...",
        help="Sign the log with a key of `nono-trio keys generate` (its name or file),"
        " keyring://SERVICE/USER, or a signer, cmd://COMMAND LINE. The command must not be able to"
        " read the key.",
        example='"default"', note="or file://PATH, keyring://SERVICE/USER, cmd://COMMAND LINE",
    ),
    Field(
        key="audit.anchor_command", merge="replaces",
        flags=("--anchor-command",), metavar="CMD",
        help="Give the ledger's signed checkpoint to CMD on stdin after the seal (10 s).",
        example='"/usr/local/bin/keep-checkpoint"',
    ),
    Field(
        key="audit.witness", merge="adds_up",
        flags=("--witness",), metavar="URL",
        help="Have a C2SP witness cosign the ledger.",
        example='["https://witness.example.com"]', note="or URL#NAME+ID+KEY",
    ),
    Field(
        key="limits.timeout", merge="replaces", kind="seconds", least=0, above=True,
        flags=("--timeout",), metavar="SECONDS",
        help="End the whole run after that long (exit code 124).",
        example="3600", note="seconds",
    ),
    Field(
        key="limits.memory", merge="replaces", kind="size",
        flags=("--memory",), metavar="SIZE",
        help="Memory of the whole cage, like 512M or 2G; of each process where no cgroup v2 is"
        " delegated.",
        example='"2G"',
    ),
    Field(
        key="limits.max_processes", merge="replaces", kind="whole_number", least=1,
        flags=("--max-processes",), metavar="N",
        help="Processes and threads of the whole cage (default: 4096). Where no cgroup v2 is"
        " delegated: not for root, and without namespaces all of yours.",
        example="256",
    ),
    Field(
        key="limits.max_open_files", merge="replaces", kind="whole_number", least=16,
        flags=("--max-open-files",), metavar="N",
        help="Descriptors that each process may have open.",
        example="4096",
    ),
)  # fmt: skip
BY_KEY: Final = {field.key: field for field in FIELDS}
SECTIONS: Final = tuple(dict.fromkeys(field.section for field in FIELDS))


def fields_of(section: str) -> tuple[Field, ...]:
    """Return the fields of one table, in order."""
    return tuple(field for field in FIELDS if field.section == section)


def flag_of(parameter: str) -> str:
    """Return the long flag that gives a click parameter its value."""
    return "--" + parameter.replace("_", "-")
