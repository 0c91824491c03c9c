"""A real MCP session in a real cage: the tools that may be called, the record, what it learns."""

from __future__ import annotations

import json
import shlex
import tomllib

from harness import PROBES, SYSTEM_PYTHON, serving
from mcp_origin import mcp_origin
from own_ca import write_authority

HOST = "mcp.example"


def test_an_mcp_session_is_held_to_its_tools(sessions, tmp_path) -> None:
    own = write_authority(tmp_path)
    origin = mcp_origin(*own, HOST)
    where = f"{HOST}:{origin.port}"
    url = f"https://{where}/mcp"

    def run(*rules: str):
        return sessions.run(
            "--upstream-ca", str(own[0]), "--read", str(PROBES), "--resolve", f"{where}:127.0.0.1",
            *rules, "--", SYSTEM_PYTHON, str(PROBES / "mcp_client.py"), url, "search",
            "delete_repo",
        )  # fmt: skip

    with serving(origin):
        done = run("--allow-mcp-tool", f"search {url}")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert json.loads(told["search"])["result"]["content"][0]["text"] == "done"
        refused = json.loads(told["delete_repo"])
        assert (refused["id"], refused["error"]["code"]) == (4, 403)
        hint = refused["error"]["message"].partition("hint: allow it with ")[2]
        assert hint == f"--allow-mcp-tool 'delete_repo {url}'"
        assert "fits no MCP rule" in json.loads(told["prompts"])["error"]["message"]
        assert origin.seen == [
            "initialize", "notifications/initialized", "tools/list", "tools/call search",
            "GET", "DELETE",
        ]  # fmt: skip
        assert hint in done.stderr
        text = json.dumps(sessions.records())
        assert "hunter2" not in text
        assert "MCP tools/call search sha256:" in text
        assert sessions.call("audit", "verify", "latest").returncode == 0
        shown = sessions.call("audit", "show", "latest").stdout
        assert "POST /mcp  MCP tools/list" in shown
        learned = tomllib.loads(sessions.call("audit", "learn", "latest").stdout)["network"]
        assert f"search {url}" in learned["allow_mcp_tool"]
        assert not any("delete_repo" in one for one in learned["allow_mcp_tool"])
        asked = ("audit", "why", "latest", "--url", url, "--mcp-tool")
        assert sessions.call(*asked, "search").stdout.startswith("allowed")
        assert sessions.call(*asked, "delete_repo").stdout.startswith("denied")
        origin.seen.clear()
        done = run("--allow-mcp-tool", f"search {url}", *shlex.split(hint))
        assert "done" in json.loads(done.stdout)["delete_repo"]
        assert "tools/call delete_repo" in origin.seen
