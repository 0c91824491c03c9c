"""Wrong values for keys, witnesses, credentials and rules: the hint is about that flag."""

from __future__ import annotations

import shlex

import pytest

EMPTY = "a variable that was meant to give it may not be set"
WITNESS = "as in --witness https://witness.example.com"
FORMS = "a reference is NAME, file://PATH, keyring://SERVICE/USER or cmd://COMMAND LINE"
MCP = "an entry is like 'search_*,get_issue https://mcp.example.com/mcp'"
METHODS = "an entry is like 'GET,HEAD https://api.example.com/repos/**'"

# What is given -> a part of the error, and the hint.
WRONG = {
    "--audit-sign-key ''": ("--audit-sign-key: expected a key, got an empty text", EMPTY),
    "--audit-sign-key env://KEY": ("--audit-sign-key: expected a key, got 'env://KEY'", FORMS),
    "--audit-sign-key 'a b'": ("--audit-sign-key: expected a key's name", FORMS),
    "--witness ''": ("--witness: expected https://HOST", WITNESS),
    "--witness nonsense": ("without a query, got 'nonsense'", WITNESS),
    "--witness https://me:hunter2@w.test": ("got a URL with a user", WITNESS),
    "--witness https://w.test:99999": (
        "--witness 'https://w.test:99999': expected a port",
        WITNESS,
    ),
    "--credential a=env://HOME": ("expected a host", "write --credential a=env://HOME@HOST, or"),
    "--credential npm=env://HOME": ("expected a host", "write --credential npm=env://HOME@HOST,"),
    "--credential 'a=cmd://x hunter2'": ("expected a host", "write --credential a=SOURCE@HOST, or"),
    "--credential-route a": ("no such credential", "add --credential a=SOURCE@HOST"),
    "--credential a=file:///none/x@a.test": ("can't be read", "look at it: ls -ld /none/x"),
    "--allow-endpoint 'GET https://a.test:99999/'": ("expected a port from 1", METHODS),
    "--allow-mcp-tool 'x https://a.test:99999/'": ("expected a port from 1", MCP),
    "--allow-mcp-tool 'x ftp://a.test/'": ("expected http:// or https://", MCP),
    "--allow-mcp-tool ''": ("expected names and a URL, got an empty text", EMPTY),
}


# The source of a password -> a part of the error, and the hint.
SOURCES = {
    "hunter2": ("expected env://VARIABLE or file://PATH", "as in file://~/secret"),
    "file:///none/key": ("/none/key: no such file", "look at it: ls -ld /none/key"),
    "file:///dev/null": ("/dev/null: ", "look at it: ls -ld /dev/null"),
    "env://NO_SUCH_KEY": ("the variable 'NO_SUCH_KEY' is not set", "export it"),
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_wrong_source_of_a_secret_has_a_hint(run, tmp_path, source):
    message, hint = SOURCES[source]
    flags = ["--upstream-proxy", "http://me@127.0.0.1:9", "--upstream-proxy-password", source]
    code, _, err = run("run", "--dry-run", *flags, "--", "true")
    assert (code, message in err, f"hint: {hint}" in err) == (2, True, True), err
    profile = tmp_path / "a.toml"
    profile.write_text('[network]\nclient_key = { "a.test" = "hunter2" }\n')
    code, _, err = run("run", "--dry-run", "-p", profile, "--", "true")
    assert (code, "hint: as in file://" in err) == (2, True), err
    assert "hunter2" not in err


@pytest.mark.parametrize("given", WRONG)
def test_a_wrong_value_has_a_hint_about_its_own_flag(run, given):
    message, hint = WRONG[given]
    code, _, err = run("run", "--dry-run", *_signed(given), *shlex.split(given), "--", "true")
    assert code == 2, err
    assert message in err
    assert f"hint: {hint}" in err
    assert "hunter2" not in err


def _signed(given):
    return ["--audit-sign-key", "default"] if given.startswith("--witness") else []


def test_a_url_without_methods_allows_nothing(run, tmp_path):
    """Not every method, as the same URL does behind --allow-domain."""
    url = "https://api.example.com/v1/**"
    code, _, err = run("why", "--host", "api.example.com", "--allow-endpoint", url)
    assert (code, "expected methods before the URL" in err) == (2, True)
    hint = next(line for line in err.splitlines() if line.startswith("hint: "))
    given = shlex.split(hint.removeprefix("hint: "))
    assert run("why", "--host", "api.example.com", *given)[0] == 0
    profile = tmp_path / "a.toml"
    profile.write_text(f'[network]\nallow_endpoint = ["{url}"]\n')
    code, _, err = run("why", "--host", "api.example.com", "-p", profile)
    assert (code, "a.toml:2: network.allow_endpoint: " in err) == (2, True)


@pytest.mark.parametrize("flag", ["--credential", "--allow", "--witness", "--timeout"])
def test_two_hyphens_are_no_value(run, flag):
    """`run --credential -- agent` would be a run of no command, or of another one."""
    code, _, err = run("run", "--dry-run", flag, "--", "true")
    assert (code, f"option '{flag}' requires an argument" in err) == (2, True), err


@pytest.mark.parametrize(
    ("word", "hint"),
    [("no-such", "give its path: "), ("./none", "look for it: ls -ld "), ("./plain", "chmod +x ")],
)
def test_a_program_that_can_not_be_run(run, tmp_path, monkeypatch, word, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("text")
    code, _, err = run("run", "--dry-run", "--audit-sign-key", f"cmd://{word}", "--", "true")
    assert (code, f"there is no program '{word}'\nhint: {hint}" in err) == (2, True), err


def test_the_errors_of_keys_name_a_way_that_works(run, tmp_path):
    there = tmp_path / "there.key"
    code, _, err = run("keys", "export", "--file", there)
    assert (code, f"hint: nono-trio keys generate --file {there}\n" in err) == (2, True)
    assert run("keys", "generate", "--file", there)[0] == 0
    assert run("keys", "export", "--file", there)[0] == 0
    code, _, err = run("keys", "generate", "--file", there)
    assert (code, "--file FILE" in err) == (2, True)
    for name in ("", "a/b", "-x"):
        code, _, err = run("keys", "generate", "--id", name)
        assert (code, "--id: expected " in err, "hint: " in err) == (2, True, True)


@pytest.mark.parametrize(
    "question",
    [
        "why --host ''",
        "why --url ''",
        "why --url https://a.test/ --method ''",
        "audit tail --host ''",
    ],
)
def test_an_empty_text_is_no_question(run, question):
    code, _, err = run(*shlex.split(question))
    assert (code, "got an empty text" in err, f"hint: {EMPTY}" in err) == (2, True, True), err
