"""An agent's command line that signs in and keeps its tokens in a file of its home.

    login_agent.py AUTH_URL API_URL STEP...

    device     the device flow
    code:PORT  the authorization code flow: the browser's answer comes to a port of this machine
    api        asks the API; refreshes the tokens once if they are refused
    json       as api, after a refresh whose request is JSON
    steal:URL  sends its tokens to another host

It prints one JSON object: what came of each step, and the tokens as it has them.
"""

import base64
import json
import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request

AUTH, API = sys.argv[1:3]
FILE = os.path.join(os.environ["HOME"], ".agent", "login.json")
FORM = "application/x-www-form-urlencoded"


def ask(path, data=None, kind=FORM, **fields):
    url = path if "://" in path else AUTH + path
    fields["Accept-Encoding"] = "gzip"
    if data is not None:
        fields["Content-Type"] = kind
    request = urllib.request.Request(url, data, fields)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Content-Type", ""), error.read()


def form(path, **values):
    return read(*ask(path, urllib.parse.urlencode(values).encode()))


def read(status, kind, body):
    if kind.startswith(FORM):
        return status, dict(urllib.parse.parse_qsl(body.decode()))
    try:
        return status, json.loads(body)
    except ValueError:
        return status, {"text": body.decode("utf-8", "replace")}


def tokens():
    with open(FILE) as file:
        return json.load(file)


def keep(answer):
    os.makedirs(os.path.dirname(FILE), mode=0o700, exist_ok=True)
    with open(FILE, "w") as file:
        json.dump(answer, file)


def signed_in(status, answer):
    if "access_token" not in answer:
        return [status, answer]
    keep(answer)
    if "id_token" in answer:
        claims = answer["id_token"].split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return [status, claims["sub"]]
    return [status, ""]


def device():
    kind = "urn:ietf:params:oauth:grant-type:device_code"
    _, begun = form("/oauth/device", client_id="agent")
    while True:
        status, answer = form("/oauth/token", grant_type=kind, device_code=begun["device_code"])
        if answer.get("error") != "authorization_pending":
            return signed_in(status, answer)


def code(port):
    with socket.create_server(("127.0.0.1", int(port))) as listener:
        listener.settimeout(60)
        print("ready", flush=True)
        with listener.accept()[0] as sock:
            line = sock.recv(65536).decode().split(" ")[1]
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(line).query))
    return signed_in(*form("/oauth/token", grant_type="authorization_code", code=query["code"]))


def refresh(as_json=False):
    values = {"grant_type": "refresh_token", "refresh_token": tokens()["refresh_token"]}
    if as_json:
        return signed_in(
            *read(*ask("/oauth/token", json.dumps(values).encode(), "application/json"))
        )
    return signed_in(*form("/oauth/token", **values))


def api():
    statuses = []
    for _ in range(2):
        status, _, body = ask(API + "/api/me", Authorization="Bearer " + tokens()["access_token"])
        statuses.append(status)
        if status != 401:
            return [*statuses, body.decode("utf-8", "replace")]
        statuses.append(refresh())
    return statuses


def as_json():
    return [refresh(as_json=True), *api()]


def steal(url):
    found = []
    for value in (tokens()["access_token"], tokens()["refresh_token"]):
        try:
            found.append(ask(url, value.encode())[0])
        except OSError as error:
            found.append(type(error).__name__)
    return found


STEPS = {"device": device, "code": code, "api": api, "json": as_json, "steal": steal}
said = {}
for step in sys.argv[3:]:
    name, _, argument = step.partition(":")
    said[step] = STEPS[name](*([argument] if argument else []))
said["tokens"] = tokens() if os.path.exists(FILE) else {}
print(json.dumps(said))
