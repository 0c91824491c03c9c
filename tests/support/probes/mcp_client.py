"""An MCP client of the standard library: a session with the server at a URL, told as JSON.

usage: mcp_client.py URL TOOL...   (each tool is called, with an argument that is a secret)
"""

import json
import sys
import urllib.error
import urllib.request

URL, TOOLS = sys.argv[1], sys.argv[2:]
TYPES = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
told = {}


def send(method, identifier=None, http_method="POST", **params):
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    if identifier is not None:
        message["id"] = identifier
    data = json.dumps(message).encode() if http_method == "POST" else None
    request = urllib.request.Request(URL, data, TYPES, method=http_method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode() or answer.status
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


told["initialize"] = send("initialize", 1, protocolVersion="2025-06-18", capabilities={})
told["initialized"] = send("notifications/initialized")
told["tools"] = send("tools/list", 2)
for number, tool in enumerate(TOOLS, 3):
    told[tool] = send("tools/call", number, name=tool, arguments={"q": "hunter2"})
told["prompts"] = send("prompts/list", 90)
told["stream"] = send("", http_method="GET")
told["end"] = send("", http_method="DELETE")
print(json.dumps(told))
