"""Asks for an allowed and for a denied path with every client that is there, by the proxy and
without it. Prints one JSON object: the outcome of each client and way."""

import json
import os
import shutil
import subprocess
import sys

URL = sys.argv[1]
FETCH = "fetch(process.argv[1]).then(a => a.text().then(t => console.log(a.status, t)))"
PYTHON = """
import sys, urllib.error, urllib.request
try:
    print(200, urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
OPENSSL = (
    'printf \'GET /%s HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n\' "$2" "$1" |'
    ' openssl s_client -quiet -verify_return_error -connect "$1" -servername "${1%%:*}"'
)
WHERE = URL.removeprefix("https://").rstrip("/")
CLIENTS = {
    "curl": ["curl", "-sS", "-w", "%{http_code}"],
    "wget": ["wget", "-q", "-O", "-", "--content-on-error", "-S"],
    "python": ["/usr/bin/python3", "-c", PYTHON],
    "git": ["git", "-c", "http.followRedirects=false", "ls-remote"],
}
DIRECT = {"node": ["node", "-e", FETCH], "openssl": ["sh", "-c", OPENSSL, "sh", WHERE]}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")

ways = {"proxy": (CLIENTS, dict(os.environ))}
if "transparent" in sys.argv[2:]:
    plain = {name: value for name, value in os.environ.items() if name not in PROXIES}
    ways["transparent"] = (CLIENTS | DIRECT, plain)
told = {}
for way, (clients, environment) in ways.items():
    for name, words in clients.items():
        if (
            shutil.which(words[0]) is None
            or shutil.which(name.replace("python", "python3")) is None
        ):
            continue
        for path in (f"ok/{name}-{way}", f"no/{name}-{way}"):
            target = path if name == "openssl" else URL + path
            done = subprocess.run(
                [*words, target], env=environment, capture_output=True, text=True,
                timeout=50, check=False,
            )  # fmt: skip
            told[path] = done.stdout[-800:] + done.stderr[-800:]
print(json.dumps(told))
