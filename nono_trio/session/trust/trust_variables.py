"""The variables by which programs find the certificates of a session.

Measured, one variable and one program at a time (docs/intercept.md). Rules of this file:
- Where the system's own files show the bundle, only the variables are set that complete it. All
  others of REPLACING that the command would get anyway are led to the bundle, because they would
  hide it.
- Where nothing can be mounted, every variable is set.
- ADDING are read in addition to a program's own roots, so they name the authority alone and what
  the user's variables named: each process would parse 140 roots for nothing.
- SSL_CERT_DIR goes: with it, curl does not read SSL_CERT_FILE. Its certificates are in the bundle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nono_trio.proxy.intercept.root_store import DIRECTORY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

ADDING: Final = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
REPLACING: Final = (
    "SSL_CERT_FILE",  # OpenSSL, Go, Rust (rustls-native-certs), uv, httpx, aiohttp, Ruby, PHP
    "REQUESTS_CA_BUNDLE",  # requests, pip, aws
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "npm_config_cafile",
    "YARN_HTTPS_CA_FILE_PATH",
    "BUNDLE_SSL_CA_CERT",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NIX_SSL_CERT_FILE",
    "COMPOSER_CAFILE",
    "HEX_CACERTS_PATH",
    "CODEX_CA_CERTIFICATE",
)
# Beside mounts over the system's files: for what has roots of its own, or reads a variable only.
COMPLETING: Final = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",  # the package for Python brings its own
)
_NPM: Final = "npm_config_cafile"
WGET: Final = "WGETRC"
JAVA: Final = "JAVA_TOOL_OPTIONS"
_JAVA_STORE: Final = "-Djavax.net.ssl.trustStore="


def variables_beside_mounts(
    environment: Mapping[str, str], bundle: str, extra: str, *, npm: bool
) -> dict[str, str]:
    """Return what to set in `environment`, the command's, if the system's files show the bundle.

    `npm`: a setting of npm names a file of its own, which hides NODE_EXTRA_CA_CERTS.
    """
    wanted = {*COMPLETING, *([_NPM] if npm else [])}
    found = dict.fromkeys(wanted, bundle)
    lower = {name.lower(): name for name in REPLACING}
    for name in environment:  # npm reads its names in any case
        if name in REPLACING or lower.get(name.lower()) == _NPM:
            found[name] = bundle
    found[ADDING[0]] = extra
    return found | {name: extra for name in ADDING if name in environment}


def variables_alone(
    environment: Mapping[str, str], bundle: str, extra: str, *, wgetrc: str, java_store: str | None
) -> dict[str, str]:
    """Return what to set in `environment` if nothing can be mounted.

    `wgetrc` is a settings file for wget, `java_store` a trust store if there is a JDK.
    """
    found = variables_beside_mounts(environment, bundle, extra, npm=True)
    found |= dict.fromkeys(REPLACING, bundle) | dict.fromkeys(ADDING, extra)
    if WGET not in environment:
        found[WGET] = wgetrc
    given = environment.get(JAVA, "")
    if java_store is not None and _JAVA_STORE not in given:
        found[JAVA] = f'{given} {_JAVA_STORE}"{java_store}"'.strip()
    return found


def without_directory(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` without SSL_CERT_DIR."""
    return {name: value for name, value in environment.items() if name != DIRECTORY_VARIABLE}
