"""The variables by which programs find the session's certificates."""

from __future__ import annotations

import pytest

from nono_trio.session.trust.trust_variables import (
    ADDING,
    JAVA,
    REPLACING,
    WGET,
    variables_alone,
    variables_beside_mounts,
    without_directory,
)

BUNDLE, EXTRA, RC, STORE = "/t/bundle", "/t/extra", "/t/wgetrc", "/t/cacerts"
COMPLETE = {
    "SSL_CERT_FILE": BUNDLE,
    "REQUESTS_CA_BUNDLE": BUNDLE,
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": BUNDLE,
    "NODE_EXTRA_CA_CERTS": EXTRA,
}


def beside(environment: dict[str, str], *, npm: bool = False) -> dict[str, str]:
    return variables_beside_mounts(environment, BUNDLE, EXTRA, npm=npm)


def alone(environment: dict[str, str], store: str | None = STORE) -> dict[str, str]:
    return variables_alone(environment, BUNDLE, EXTRA, wgetrc=RC, java_store=store)


def test_beside_mounts_four_variables_are_enough() -> None:
    assert beside({"PATH": "/bin"}) == COMPLETE


def test_a_setting_of_npm_is_led_to_the_bundle() -> None:
    assert beside({}, npm=True) == COMPLETE | {"npm_config_cafile": BUNDLE}


@pytest.mark.parametrize("name", [*REPLACING, "NPM_CONFIG_CAFILE"])
def test_a_variable_that_would_hide_the_mounts_is_led_to_the_bundle(name) -> None:
    assert beside({name: "/own.pem"}) == COMPLETE | {name: BUNDLE}


@pytest.mark.parametrize("name", ADDING)
def test_a_variable_that_adds_names_the_authority(name) -> None:
    assert beside({name: "/own.pem"}) == COMPLETE | {name: EXTRA}


def test_without_mounts_all_twenty_one_are_set() -> None:
    found = alone({})
    assert len(REPLACING) + len(ADDING) == 19
    assert found.keys() == {*REPLACING, *ADDING, WGET, JAVA}
    assert {found[name] for name in REPLACING} == {BUNDLE}
    assert {found[name] for name in ADDING} == {EXTRA}
    assert found[WGET] == RC


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('-Djava.io.tmpdir="/t"', f'-Djava.io.tmpdir="/t" -Djavax.net.ssl.trustStore="{STORE}"'),
        ("-Djavax.net.ssl.trustStore=/own", None),
    ],
)
def test_javas_options_are_added_to(given, expected) -> None:
    """A store that the user chose stays."""
    assert alone({JAVA: given}).get(JAVA) == expected


def test_without_a_jdk_java_gets_no_option() -> None:
    assert JAVA not in alone({}, store=None)


def test_settings_of_wget_stay() -> None:
    assert WGET not in alone({WGET: "/own/wgetrc"})


def test_the_directory_goes() -> None:
    assert without_directory({"SSL_CERT_DIR": "/certs", "A": "b"}) == {"A": "b"}
