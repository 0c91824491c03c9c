"""`run --dry-run`: the cage that a run would get, resolved by the code that enforces it.

Rules of this file: nothing of the command's is started and nothing is recorded; of the environment
only names are shown, of the command what the log would keep of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nono_trio.cli.json_output import print_json
from nono_trio.cli.tables import print_facts
from nono_trio.cli.text import clean, command_text, counted, size_text
from nono_trio.cli.unkept_log import UNKEPT
from nono_trio.core.log.redaction import redact_argv
from nono_trio.errors import JSON_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nono_trio.config.options import NetworkOptions, RunOptions
    from nono_trio.sandbox.filesystem.grant import Grant
    from nono_trio.session.prepare import PreparedRun

LABEL_WIDTH = 15
# Key of the cage's network, parameter that gave it, and how an entry is shown.
_NETWORK_ROWS = (
    ("deny", "deny_domain", "deny  {}"),
    ("allow", "allow_domain", "allow {}"),
    ("endpoints", "endpoint", "rule  {}"),
    ("intercept", "intercept", "see   the requests to {}"),
    ("no_intercept", "no_intercept", "tunnel {}, whose requests are not seen"),
    ("resolve", "resolve", "pin   {}"),
    ("upstream_proxy", "upstream_proxy", "through the upstream proxy {}"),
    ("open_ports", "open_port", "relay port {} to the host's"),
    ("listen_ports", "listen_port", "relay the host's port {} in"),
)


def show_cage(options: RunOptions, *, say: Callable[[str], None], as_json: bool) -> None:
    """Print the resolved cage on stdout, warnings with `say`.

    Raises what `run` would raise before it starts.
    """
    from nono_trio.explain.doctor import chosen_isolation
    from nono_trio.session.prepare import prepare_run

    prepared = prepare_run(options, chosen_isolation(options), dry=True)
    try:
        for warning in _warnings(options, prepared):
            say(f"warning: {clean(warning)}")
        if as_json:
            cage = {"schema": JSON_SCHEMA, **cage_fields(options, prepared)}
            print_json(cage)
            return
        print_facts("Cage", _facts(options, prepared), LABEL_WIDTH)
        print("nothing was started, nothing was recorded")
    finally:
        prepared.resources.close()


def cage_fields(options: RunOptions, prepared: PreparedRun) -> dict[str, Any]:
    """The whole cage as data."""
    plan, files, network = prepared.plan, prepared.files, options.session.network
    return {
        "command": redact_argv(options.command),
        "executable": prepared.executable,
        "directory": plan.directory,
        "isolation": plan.isolation,
        "enforcement": prepared.enforcement,
        "file_sandbox": plan.landlock,
        "grants": [
            {"path": grant.path, "access": grant.access, "source": grant.source, **_leads(grant)}
            for grant in files.grants
        ],
        "unix_sockets": [
            {"path": grant.path, "source": grant.source, **_leads(grant)} for grant in files.sockets
        ],
        "own_paths": [path for path, _, _ in plan.grants[len(files.grants) :]],
        "private": [
            {"path": one.path, "bytes": one.size, "files": one.files}
            for one in plan.mounted("private")
        ],
        "own_files": sorted(one.path for one in plan.mounted("text")),
        "denied": list(files.denied),
        "covered": list(files.covered),
        "kept": list(files.kept),
        "home": _home(prepared),
        "network": {
            "allow": list(network.allow),
            "deny": list(network.deny),
            "endpoints": list(network.endpoints),
            "intercept": list(network.intercept),
            "no_intercept": list(network.no_intercept),
            "resolve": list(network.resolve),
            "block": network.block,
            "upstream_proxy": [network.upstream_proxy.shown] if network.upstream_proxy else [],
            "open_ports": list(plan.open_ports),
            "listen_ports": list(plan.listen_ports),
            "sources": dict(network.sources),
        },
        "credentials": [*_credentials(network)],
        "environment": _environment(options, prepared),
        "limits": plan.limits,
        "state_directory": str(options.session.audit.state_root),
        "warnings": _warnings(options, prepared),
    }


def _warnings(options: RunOptions, prepared: PreparedRun) -> list[str]:
    """Return what the run would warn of before it starts."""
    return [*prepared.warnings, *(() if options.session.audit.keeps_log else (UNKEPT,))]


def _leads(grant: Grant) -> dict[str, str]:
    return {} if grant.real == grant.path else {"leads_to": grant.real}


def _home(prepared: PreparedRun) -> dict[str, Any]:
    home = prepared.resources.home
    return {
        "kind": home.plan.kind,
        "source": home.plan.source or "default",
        "path": home.path,
        "name": home.name,
        "exists": home.is_there,
        "why_closed": home.plan.why_closed or None,
        "places": [place.path for place in home.plan.places],
        "seeds": [path for path, _ in home.seeds],
    }


def _home_texts(home: dict[str, Any]) -> Iterator[str]:
    asked = f"({home['source']})"
    if home["kind"] == "closed":
        why = home["why_closed"]
        yield f"none of its own: {why}" if why != "asked for" else f"none of its own  {asked}"
    elif home["kind"] == "private":
        yield f"empty, ends with the session  {asked}"
    else:
        state = "is there" if home["exists"] else "will be made"
        yield f"kept as {home['name']}, which {state}  {asked}"
        if not home["exists"]:
            yield from (f"begins with a copy of {path}" for path in home["seeds"])


def _environment(options: RunOptions, prepared: PreparedRun) -> dict[str, list[str]]:
    """Names only: values are the caller's secrets."""
    given, passed = options.environment, prepared.plan.environment
    return {
        "passed": sorted(name for name in passed if given.get(name) == passed[name]),
        "set": sorted(name for name in passed if given.get(name) != passed[name]),
        "held_back": sorted(given.keys() - passed.keys()),
    }


def _credentials(network: NetworkOptions) -> Iterator[dict[str, Any]]:
    """The credentials with the kinds of their sources: a source may have a password in it."""
    for one in network.credentials:
        yield {
            "name": one.name,
            "source": network.source("credential", one.name),
            "secret_from": one.source_shown,
            "hosts": [host.origin for host in one.hosts],
            "places": sorted(one.places),
            "variables": [*one.variables],
            "files": [*one.files],
            "optional": one.optional,
            "elsewhere": one.elsewhere,
            "kind": one.kind,
            "route": one.route,
        }


def _credential_texts(credentials: Iterable[dict[str, Any]]) -> Iterator[str]:
    for one in credentials:
        hosts = " ".join(host.removeprefix("https://") for host in one["hosts"])
        yield f"{one['name']} from {one['secret_from']}, for {hosts}  ({one['source']})"
        shown = [*one["variables"], *one["files"]]
        if shown:
            yield f"{one['name']}: a stand-in in {' '.join(shown)}"
        if one["route"]:
            yield f"{one['name']}: a reverse route, http://127.0.0.1:PORT/{one['name']}"


def _facts(options: RunOptions, prepared: PreparedRun) -> Iterator[tuple[str, str]]:
    cage = cage_fields(options, prepared)
    yield from _rows("command", [command_text(cage["command"])])
    yield from _rows("executable", [cage["executable"]])
    yield from _rows("starts in", [cage["directory"]])
    yield from _rows("isolation", [_isolation_text(options, prepared)])
    yield from _rows("cage", cage["enforcement"])
    yield from _file_facts(prepared, cage)
    yield from _rows("network", _network_texts(options.session.network, cage["network"]))
    yield from _rows("credentials", _credential_texts(cage["credentials"]))
    for label, key in (("passed", "passed"), ("set", "set"), ("held back", "held_back")):
        names = cage["environment"][key]
        yield from _rows(f"env {label}", [" ".join(names) or "nothing"])
    yield from _rows("limits", [f"{name} {value}" for name, value in cage["limits"].items()])
    yield from _rows("log", [f"in {cage['state_directory']}, which no grant covers"])


def _isolation_text(options: RunOptions, prepared: PreparedRun) -> str:
    chosen = prepared.plan.isolation
    return f"{chosen} (auto: tried on this machine)" if options.isolation == "auto" else chosen


def _file_facts(prepared: PreparedRun, cage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if not prepared.plan.landlock:
        yield from _rows("files", ["all that you may touch: --no-sandbox"])
        return
    grants = cage["grants"]
    width = max((len(grant["access"]) for grant in grants), default=0)
    yield from _rows(
        "granted",
        [f"{grant['access']:<{width}} {_led(grant)}  ({grant['source']})" for grant in grants],
    )
    sockets = [f"connect {_led(grant)}  ({grant['source']})" for grant in cage["unix_sockets"]]
    yield from _rows("sockets", sockets)
    yield from _rows("the cage's", [" ".join(cage["own_paths"])])
    yield from _rows("its own", [f"{path}  (not the host's)" for path in cage["own_files"]])
    sizes = [
        f"{one['path']}  at most {size_text(one['bytes'])} in {one['files']} files, in memory"
        for one in cage["private"]
    ]
    yield from _rows("private", sizes)
    covered = [f"{path}  (inside a grant, covered)" for path in cage["covered"]]
    yield from _rows("home", _home_texts(cage["home"]))
    yield from _rows("closed", covered)
    yield from _rows("read-only", [f"{path}  (nono-trio's own code)" for path in cage["kept"]])
    others = [path for path in cage["denied"] if path not in cage["covered"]]
    yield from _rows("closed too", [f"{counted(len(others), 'path')}: {' '.join(others)}"])


def _led(grant: dict[str, str]) -> str:
    """A grant's path, and where it leads if that is elsewhere."""
    return " -> ".join((grant["path"], *filter(None, [grant.get("leads_to")])))


def _network_texts(options: NetworkOptions, network: dict[str, Any]) -> list[str]:
    if network["block"]:
        return [f"blocked: {options.source('block_net')}"]
    texts = [
        text.format(entry) + f"  ({options.source(name, entry)})"
        for key, name, text in _NETWORK_ROWS
        for entry in network[key]
    ]
    return [*texts, "deny  everything else, metadata and link-local addresses always"]


def _rows(label: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        yield label, text
        label = ""
