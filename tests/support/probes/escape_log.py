"""Ways to its own log: the child reads and changes what is written about it."""

import os
import stat

from escape_base import attempt, overwrite, present


def log_files(host):
    found = [os.path.join(at, name) for at, _, names in os.walk(host.state) for name in names]
    known = present(host, "log")
    return [path for path in [known, *found] if path.endswith("audit-events.ndjson")]


@attempt("finding the audit state")
def find_state(host):
    return f"found {os.listdir(host.state)}"


@attempt("reading its own log")
def read_log(host):
    with open(log_files(host)[0], "rb") as file:
        return f"read {len(file.read())} bytes"


@attempt("appending to its own log")
def append_log(host):
    return overwrite(log_files(host)[0], host, os.O_WRONLY | os.O_APPEND)


@attempt("truncating its own log")
def truncate_log(host):
    os.truncate(log_files(host)[0], 0)
    return "truncated"


@attempt("deleting its own log")
def delete_log(host):
    os.unlink(log_files(host)[0])
    return "deleted"


@attempt("replacing its own log")
def replace_log(host):
    mine = os.path.join(host.project, "forged.ndjson")
    with open(mine, "w") as file:
        file.write("{}\n")
    os.rename(mine, log_files(host)[0])
    return "replaced"


@attempt("moving the session's directory away")
def move_session(host):
    directory = os.path.dirname(log_files(host)[0])
    os.rename(directory, directory + "-moved")
    return "moved"


@attempt("a file of its own among the sessions")
def plant_session(host):
    os.mkdir(os.path.join(host.state, "audit", "0000000000000000"))
    return "made"


@attempt("reading the ledger")
def read_ledger(host):
    with open(os.path.join(host.state, "audit", "ledger.ndjson"), "rb") as file:
        return f"read {len(file.read())} bytes"


@attempt("writing the ledger")
def write_ledger(host):
    path = os.path.join(host.state, "audit", "ledger.ndjson")
    return overwrite(path, host, os.O_WRONLY | os.O_APPEND)


@attempt("changing the mode of its own log")
def chmod_log(host):
    path = log_files(host)[0]
    os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))
    return "the kernel let it"
