"""Profiles: the values of a text, and the message for each fault."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nono_trio.core.profile.line_numbers import json_lines, line_of, toml_lines
from nono_trio.core.profile.parser import read_profile
from nono_trio.core.profile.schema import Profile, SourcedProfile, merge
from nono_trio.core.profile.values import VARIABLES, expand, quoted, quoted_path
from nono_trio.errors import UsageError

WHOLE = """\
extends = ["a", "./b.toml"]
[meta]
name = "x"
[filesystem]
allow = ["$WORKDIR", "~/x"]
deny = ["$WORKDIR/.env"]
[network]
block = true
allow_domain = ["a.example.com:443", "github"]
groups = ["llm_apis"]
resolve = ["a.example.com:443:127.0.0.1"]
open_port = [5432]
[environment]
allow = ["MY_TOKEN"]
set = { A = "1" }
[audit]
mode = "best-effort"
queue = 7
[limits]
timeout = 1.5
memory = "2G"
"""


def faults(text, file="p.toml"):
    return [(f.line, f.key, f.message, f.hint) for f in read_profile(text, file).faults]


def test_a_whole_profile():
    reading = read_profile(WHOLE, "p.toml")
    assert reading.faults == ()
    profile = reading.accepted().profile
    assert profile.bases == ["a", "./b.toml"]
    assert profile.filesystem.deny == ["$WORKDIR/.env"]
    assert profile.network.block is True
    assert profile.network.open_port == [5432]
    assert profile.environment.set == {"A": "1"}
    assert (profile.audit.mode, profile.audit.sync, profile.audit.queue) == ("best-effort", None, 7)
    assert (profile.limits.timeout, profile.limits.memory) == (1.5, "2G")


def test_json_says_the_same_as_toml():
    data = tomllib.loads(WHOLE)
    reading = read_profile(json.dumps(data, indent=1), "p.json")
    assert reading.faults == ()
    assert reading.accepted().profile == read_profile(WHOLE, "p.toml").accepted().profile


def test_an_empty_text_is_an_empty_profile():
    assert read_profile("", "p.toml").accepted().profile == Profile()


@pytest.mark.parametrize(
    ("text", "line", "key", "message", "hint"),
    [
        ("\nfilesytem = {}", 2, "filesytem", "unknown key", "did you mean filesystem?"),
        ("[network]\nallow_domian = []", 2, "network.allow_domian", "unknown key", "allow_domain?"),
        ("[network]\nzzz = 1", 2, "network.zzz", "unknown key", "known keys: block, allow_domain"),
        ("network = 1", 1, "network", "expected a table, got a single value", "[network]"),
        ("[network]\nblock = 'yes'", 2, "network.block", "expected true or false, got text", None),
        ("[network]\ngroups = 'github'", 2, "network.groups", "expected a list", '["github"]'),
        ("[network]\ngroups = ['githbu']", 2, "network.groups", "unknown group", "mean github?"),
        ("[network]\nallow_domain = [\n'a.b',\n'x']", 4, "network.allow_domain", "'x'", "x:443"),
        ("network.allow_domain = ['http://a/']", 1, "network.allow_domain", "got a URL", "a:80"),
        ("network.deny_domain = ['a:0']", 1, "network.deny_domain", "a port from 1", "HOST"),
        ("network.resolve = ['a']", 1, "network.resolve", "HOST:PORT:ADDR", "as in"),
        ("network.open_port = [1,\n0]", 2, "network.open_port", "whole number >= 1", None),
        ("network.listen_port = [70000]", 1, "network.listen_port", "<= 65535", None),
        ("audit.mode = 'lax'", 1, "audit.mode", "strict or best-effort, got 'lax'", None),
        ("audit.queue = 0", 1, "audit.queue", "whole number >= 1", None),
        ("limits.memory = '1X'", 1, "limits.memory", "expected a size like 512M", None),
        ("limits.timeout = 0", 1, "limits.timeout", "> 0", None),
        ("limits.max_processes = true", 1, "limits.max_processes", "got true or false", None),
        ("extends = 3", 1, "extends", "text or a list", None),
        ("filesystem.read = ['$HOEM/x']", 1, "filesystem.read", "unknown variable $HOEM", "HOME?"),
        ("filesystem.read = ['a$']", 1, "filesystem.read", "unknown variable $", "$$"),
        ("filesystem.read = ['~root/x']", 1, "filesystem.read", "expected ~/...", "your own home"),
        ("filesystem.read = ['']", 1, "filesystem.read", "expected a path", None),
        ("environment.allow = ['A*B']", 1, "environment.allow", "name of a variable", "at the end"),
        ("environment.allow = ['LD_PRELOAD']", 1, "environment.allow", "never passed on", "set"),
        ("environment.set = { PATH = 'x' }", 1, "environment.set", "PATH can't be set", "PATH"),
        ("[environment.set]\nA = '1'\nNONO_X = '1'", 3, "environment.set", "NONO_X", "ours"),
        ("environment.set = { A = 1 }", 1, "environment.set", "expected text", None),
        ("[credentials.x]\ny = 1", 2, "credentials.x.y", "unknown key", "known keys: source"),
    ],
)  # fmt: skip
def test_every_fault_has_its_line_key_and_hint(text, line, key, message, hint):
    ((found_line, found_key, found_message, found_hint),) = faults(text)
    assert (found_line, found_key) == (line, key)
    assert message in found_message
    assert not found_message.endswith(".")
    assert hint is None or hint in (found_hint or "")


@pytest.mark.parametrize(
    ("text", "file", "line", "message"),
    [
        ("a = 1\nb =\n", "p.toml", 2, "not TOML: invalid value"),
        ("a = 1\na = 2\n", "p.toml", 2, "not TOML"),
        ("x = [1,\n2", "p.toml", 2, "not TOML"),
        ('{"meta":\n{},}', "p.json", 2, "not JSON"),
        (
            '{"network": {"block": true,\n"block": false}}',
            "p.json",
            2,
            "'block' is there twice",
        ),
        ("[1]", "p.json", 1, "expected a table of settings"),
        ("[" * 5000, "p.json", 1, "nested too deeply"),
        ("x = " + "[" * 5000, "p.toml", 1, "nested too deeply"),
        ("x = " + "9" * 5000, "p.toml", 1, "a number has too many digits"),
        ("[" + "9" * 5000, "p.json", 1, "a number has too many digits"),
        ('{"meta":\n{"\\uD800": 1}}', "p.json", 2, "an escape is half of a character"),
    ],
)
def test_what_is_no_profile_at_all(text, file, line, message):
    ((found_line, key, found, _),) = faults(text, file)
    assert (found_line, key) == (line, "")
    assert message in found


def test_all_faults_are_told_and_the_first_is_raised():
    reading = read_profile("a = 1\nb = 2\n", "p.toml")
    assert len(reading.faults) == 2
    with pytest.raises(UsageError) as caught:
        reading.accepted()
    assert caught.value.message == "p.toml:1: a: unknown key"
    assert "1 more: nono-trio profile validate p.toml" in (caught.value.hint or "")


def test_lists_add_up_and_single_values_are_replaced():
    base = read_profile(
        "network.block = true\nnetwork.groups = ['github', 'gitlab']\naudit.sync = 'never'\n"
        "environment.set = { A = '1', B = '1' }\nmeta.name = 'base'",
        "base.toml",
    ).accepted()
    over = read_profile(
        "network.block = false\nnetwork.groups = ['sigstore', 'github']\n"
        "environment.set = { B = '2' }",
        "over.toml",
    ).accepted()
    merged = merge(base, over)
    assert merged.profile.network.block is False
    assert merged.profile.network.groups == ["github", "gitlab", "sigstore"]
    assert merged.profile.environment.set == {"A": "1", "B": "2"}
    assert merged.profile.audit.sync == "never"
    assert merged.profile.meta.name is None
    assert str(merged.origin("network.block")) == "over.toml:1"
    assert str(merged.origin("network.groups", "github")) == "base.toml:2"
    assert str(merged.origin("network.groups", "sigstore")) == "over.toml:2"
    assert str(merged.origin("environment.set", "B")) == "over.toml:3"
    assert str(merged.origin("audit.sync")) == "base.toml:3"


def test_merging_with_nothing_changes_nothing():
    whole = read_profile(WHOLE, "p.toml").accepted()
    assert merge(SourcedProfile(), whole) == whole


def test_variables():
    values = {"HOME": "/h", "WORKDIR": "/w"}
    assert expand("~", values) == "/h"
    assert expand("~/a$$b", values) == "/h/a$b"
    assert expand("${WORKDIR}x/$WORKDIR", values) == "/wx//w"
    assert expand("a~/b", values) == "a~/b"
    with pytest.raises(UsageError, match="has no value here"):
        expand("$TMPDIR", values)


@given(st.text())
def test_a_value_is_never_expanded_twice(text):
    assert expand("$HOME", {"HOME": text}) == text
    assert expand(text.replace("$", "$$"), dict.fromkeys(VARIABLES, "")) == (
        text if not (text == "~" or text.startswith("~/")) else text[1:]
    )


# -- lines ----------------------------------------------------------------------------------------

KEYS = st.text("abc-_1", min_size=1, max_size=4)
VALUES = st.recursive(
    st.text("ab\"'#[]{}=,:.\\\n é", max_size=6) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def paths(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from paths(item, (*path, key))


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_key_of_a_json_text_has_a_line(data):
    text = json.dumps(data, indent=1)
    lines = json_lines(text)
    assert set(lines) == set(paths(data))
    rows = text.split("\n")
    for path, line in lines.items():
        if isinstance(path[-1], str):
            assert f'"{path[-1]}"' in rows[line - 1]


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_every_key_of_a_toml_text_has_a_line(data):
    text = _toml(data)
    assert tomllib.loads(text) == data
    assert set(toml_lines(text)) == set(paths(data))


def _toml(data):
    return "".join(f"# c ] [\n{key} = {_toml_value(value)}\n\n" for key, value in data.items())


def _toml_value(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{k}" = {_toml_value(v)}' for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[ # ]\n" + "".join(f"  {_toml_value(one)},\n" for one in value) + "]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower()


@pytest.mark.parametrize("text", ["/p\x9b31m", "/q\u202ee", "/r\x7f\x1b\n", "/s\U000e0001", "/é…"])
def test_a_quoted_text_is_printable_and_the_same_text(text):
    assert quoted(text).isprintable()
    assert tomllib.loads(f"key = {quoted(text)}") == {"key": text}


@pytest.mark.parametrize("path", ["/$HOME/.ssh", "/a$b", "/$$", "/${HOME}", "/x\x9b$"])
def test_a_quoted_path_is_the_same_path_after_expansion(path):
    found = tomllib.loads(f"key = {quoted_path(path)}")["key"]
    assert expand(found, {"HOME": "/home/user"}) == path


def test_toml_in_all_its_spellings():
    text = (
        'a.b = 1 # x = 2\n[c."d e"]\nf = """\n[g]\nh = 1 """\ni = \'\'\'"\n\'\'\'\n'
        "j = [[1,\n2], {k = 1}]\n[[l]]\nm = 1979-05-27T07:32:00Z\n"
    )
    lines = toml_lines(text)
    assert lines["a", "b"] == 1
    assert lines["c", "d e", "f"] == 3
    assert lines["c", "d e", "i"] == 6
    assert lines["c", "d e", "j", 0, 1] == 9
    assert lines["c", "d e", "j", 1, "k"] == 9
    assert lines["l", 0, "m"] == 11
    assert ("g",) not in lines
    assert line_of(lines, ("c", "d e", "f", 4, "z")) == 3
    assert line_of(lines, ("nowhere",)) == 1


@pytest.mark.parametrize(
    ("file", "text", "hint"),
    [
        ("a.toml", '[filesystem]\nallow = "/x"\n', 'write allow = ["/x"]'),
        ("a.json", '{"filesystem": {"allow": "/x"}}', 'write "allow": ["/x"]'),
    ],
)
def test_a_hint_is_in_the_language_of_its_file(file, text, hint):
    (fault,) = read_profile(text, file).faults
    assert fault.hint == hint


def test_tables_of_rules_are_endpoint_rules_with_their_lines():
    text = """\
[[network.endpoint]]
host = "b.test"
methods = ["GET", "HEAD"]
path = "/v1/**"
query = { service = "a b*", x = "1" }

[[network.endpoint]]
host = "http://c.test:8080"
action = "deny"

[[network.endpoint]]
host = "d.test"
path = "/@*"
action = "audit"
allow_encoded_slash = true
"""
    sourced = read_profile(text, "a.toml").accepted()
    assert [*map(str, sourced.profile.network.endpoint)] == [
        "allow GET,HEAD https://b.test/v1/**?service=a%20b*&x=1",
        "deny * http://c.test:8080/**",
        "audit * https://d.test/@* allow_encoded_slash",
    ]
    lines = [sourced.origin("network.endpoint", one) for one in sourced.profile.network.endpoint]
    assert [str(one) for one in lines] == ["a.toml:1", "a.toml:7", "a.toml:11"]
    twice = merge(sourced, read_profile(text, "b.toml").accepted())
    assert twice.profile.network.endpoint == sourced.profile.network.endpoint


def test_tables_of_mcp_rules_are_entries_with_their_lines():
    text = """\
[[network.mcp]]
host = "m.test"
path = "/mcp"
tools = ["search_*", "a,b c"]
methods = ["resources/read"]

[[network.mcp]]
host = "http://c.test:8080"
tools = ["*"]
action = "deny"
"""
    sourced = read_profile(text, "a.toml").accepted()
    assert [*map(str, sourced.profile.network.mcp)] == [
        "allow mcp search_*,a%2Cb%20c,method:resources/read https://m.test/mcp",
        "deny mcp * http://c.test:8080/**",
    ]
    lines = [str(sourced.origin("network.mcp", one)) for one in sourced.profile.network.mcp]
    assert lines == ["a.toml:1", "a.toml:7"]
    first = '[[network.mcp]]\nhost = "m.test"\ntools = [""]\n'
    bad = f'{first}[[network.mcp]]\nhost = "m.test"\ntool = ["x"]\n'
    assert [(line, key, message) for line, key, message, _ in faults(bad)] == [
        (1, "network.mcp", "' https://m.test/**': expected names with commas between them"),
        (6, "network.mcp.tool", "unknown key"),
    ]


def test_every_fault_of_an_array_of_tables_is_found():
    text = """\
[[network.endpoint]]
host = "c.test"
path = "/../x"
[[network.endpoint]]
host = "c.test"
pth = "/x"
[[network.endpoint]]
path = "/x"
[[network.endpoint]]
host = 3
[[network.endpoint]]
host = "c.test"
action = "refuse"
"""
    assert [(line, key, message) for line, key, message, _ in faults(text)] == [
        (1, "network.endpoint", "'* https://c.test/../x': the path climbs above the root"),
        (6, "network.endpoint.pth", "unknown key"),
        (7, "network.endpoint", "expected the key host"),
        (10, "network.endpoint.host", "expected text, got a whole number"),
        (13, "network.endpoint.action", "expected allow, deny or audit, got 'refuse'"),
    ]
    for other in ("endpoint = 3", "endpoint = ['GET https://a.test/']"):
        assert faults(f"[network]\n{other}\n")


# A table and its fault: key, message, and a part of the hint.
NAMED = {
    "[[network.endpoint]]\nhost = 'a.test'\nmethods = 'GET'": (
        "network.endpoint.methods", "expected a list, got text", 'write methods = ["GET"]',
    ),
    "[[network.endpoint]]\nhost = 'a.test'\nquery = { a = 3 }": (
        "network.endpoint.query", "expected text, got a whole number", None,
    ),
    "[[network.endpoint]]\nhost = 'a.test'\nallow_encoded_slash = 'x'": (
        "network.endpoint.allow_encoded_slash", "expected true or false, got text", None,
    ),
    "[[network.endpoint]]\nmethods = ['GET']": (
        "network.endpoint", "expected the key host", "write host = ...",
    ),
    "[[network.endpoint]]\nhost = 'a.test'\npath = '.evil.test/x'": (
        "network.endpoint", "expected a path that begins with a slash, got '.evil.test/x'",
        'write path = "/.evil.test/x"',
    ),
    "[[network.mcp]]\nhost = 'a.test'": (
        "network.mcp", "expected tools or methods", 'write tools = ["search_*"]',
    ),
    "[credentials.a]\nelsewhere = 'x'": (
        "credentials.a.elsewhere", "expected deny or audit, got 'x'", None,
    ),
    "[credentials.a]\nkind = 'x'": (
        "credentials.a.kind", "expected token or sigv4, got 'x'", None,
    ),
    "[credentials.a.login]\ntoken_url = 'https://a.test/t'": (
        "credentials.a.login.token_url", "unknown key", "did you mean token_urls?",
    ),
    "[credentials.a.login]\ntoken_urls = 'https://a.test/t'": (
        "credentials.a.login.token_urls", "expected a list, got text",
        'write token_urls = ["https://a.test/t"]',
    ),
    "[credentials.a.oauth2]\ntoken_url = 'https://a.test/t'\nclient_id = 'a'": (
        "credentials.a.oauth2", "expected the key client_secret", "write client_secret = ...",
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", NAMED)
def test_a_fault_inside_a_table_names_its_key(text):
    ((_, *fault),) = faults(text)
    assert tuple(fault) == NAMED[text]
