"""Which programs of the cage trust the authority that signed a URL's host, and what the command can
change about it. Prints one JSON object."""

import json
import os
import shutil
import subprocess
import sys

URL = sys.argv[1]
NODE = """
const {connect} = require("tls"), http = require("http"), url = new URL(process.argv[1]);
const proxy = new URL(process.env.HTTPS_PROXY), host = url.hostname, where = host + ":" + url.port;
const auth = "Basic " + Buffer.from("nono:" + process.env.NONO_PROXY_TOKEN).toString("base64");
http.request({host: proxy.hostname, port: proxy.port, method: "CONNECT", path: where,
              headers: {"Proxy-Authorization": auth}})
  .on("connect", (answer, socket) => connect({socket, servername: host})
    .on("secureConnect", function () { this.end("GET /node HTTP/1.0\\r\\n\\r\\n"); })
    .on("error", error => { console.error(error.code); process.exit(1); })
    .on("data", () => process.exit(0)))
  .end();
"""
PYTHON = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
SHELL = (
    "printf 'GET /openssl HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -verify_return_error"
    ' -proxy "${HTTPS_PROXY##*@}" -proxy_user nono -proxy_pass env:NONO_PROXY_TOKEN'
    ' -connect "$1" -servername "${1%%:*}"'
)
CLIENTS = {
    "curl": ["curl", "-sS", "-o", "/dev/null", URL + "curl"],
    "wget": ["wget", "-q", "-O", "/dev/null", URL + "wget"],
    "git": ["git", "ls-remote", URL + "git"],
    "python": ["/usr/bin/python3", "-c", PYTHON, URL + "python"],
    "openssl": ["sh", "-c", SHELL, "sh", URL.removeprefix("https://").rstrip("/")],
    "node": ["node", "-e", NODE, URL],
}


def refused(action):
    try:
        action()
    except OSError:
        return True
    return False


def change(path):
    """Each way to change a file that its reader would see."""
    other = path + ".other"
    ways = {
        "write": lambda: open(path, "r+b").close(),
        "truncate": lambda: os.truncate(path, 0),
        "remove": lambda: os.unlink(path),
        "rename": lambda: os.rename(path, other),
        "replace": lambda: os.symlink("/etc/passwd", path),
        "beside": lambda: open(other, "xb").close(),
    }
    return [name for name, action in ways.items() if not refused(action)]


told = {"clients": {}, "changed": {}}
for name, words in CLIENTS.items():
    if None not in (shutil.which(words[0]), shutil.which(name.replace("python", "python3"))):
        done = subprocess.run(words, capture_output=True, text=True, timeout=50, check=False)
        told["clients"][name] = [done.returncode, done.stderr[-300:]]
files = {os.environ.get("SSL_CERT_FILE"), os.environ.get("NODE_EXTRA_CA_CERTS"), *sys.argv[2:]}
for path in sorted(filter(None, files)):
    if change(path):
        told["changed"][path] = change(path)
told["variables"] = dict(os.environ)
told["sizes"] = {path: open(path, "rb").read().count(b"BEGIN CERT") for path in filter(None, files)}
told["policies"] = [json.load(open(path)) for path in sys.argv[2:] if path.endswith(".json")]
java = "/etc/ssl/certs/java/cacerts"
if "trustStore=" in os.environ.get("JAVA_TOOL_OPTIONS", ""):
    java = os.environ["JAVA_TOOL_OPTIONS"].rpartition("trustStore=")[2].strip('"')
if os.path.exists(java):
    told["java"] = open(java, "rb").read()[-2000:].hex()
print(json.dumps(told))
