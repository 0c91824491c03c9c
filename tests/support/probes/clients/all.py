"""Runs each client of a JSON object {name: words} with one URL that the rules allow and one that
they deny, all at once. Prints one JSON object: what each client printed. `argv[2:]` are the clients
that know of no proxy."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

clients = json.loads(sys.argv[1])
plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def run(name):
    environment = plain if name in sys.argv[2:] else None
    done = subprocess.run(
        clients[name], env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    return done.stdout[-4000:] + done.stderr[-4000:]


with ThreadPoolExecutor(len(clients)) as pool:
    print(json.dumps(dict(zip(clients, pool.map(run, clients), strict=True))))
