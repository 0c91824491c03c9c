"""Signing keys by reference: a name in the state directory, a file, the keyring, a command.

A key file has two private keys in PEM (PKCS#8, unencrypted): Ed25519, then ECDSA P-256. Rules of
this file: a key file is created exclusively, 0600, in a directory 0700; no error has a byte of a
key. Key files with a name lie in the state directory, which no grant opens to a command.
"""

from __future__ import annotations

import os
import shlex
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from nono_trio.audit.keys.signer import CommandSigner, KeySigner, SignerFailed
from nono_trio.core.late import late_pattern
from nono_trio.errors import UsageError, unreadable
from nono_trio.posix.account import expand_home
from nono_trio.posix.owner import as_owner_of_path
from nono_trio.posix.private_file import program_hint, read_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from nono_trio.audit.keys.signer import Signer

SIGN_FLAG: Final = "--audit-sign-key"
DEFAULT_NAME: Final = "default"
DIRECTORY: Final = "keys"
SUFFIX: Final = ".key"
FILE: Final = "file://"
KEYRING: Final = "keyring://"
COMMAND: Final = "cmd://"

_NAME: Final = late_pattern(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_SCHEME: Final = late_pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BLOCK: Final = late_pattern(
    rb"-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END PRIVATE KEY-----\n?"
)
_FORMS: Final = "a reference is NAME, file://PATH, keyring://SERVICE/USER or cmd://COMMAND LINE"


class StoredKey(NamedTuple):
    """A key file with a name; `signer` is None if the file is no key, and `reason` says why."""

    name: str
    path: Path
    signer: Signer | None
    reason: str = ""


def keys_directory(state_root: Path) -> Path:
    """Return the directory of the keys that have names."""
    return state_root / DIRECTORY


def key_path(state_root: Path, name: str, flag: str = "--id") -> Path:
    """Return the file of the key with this name, which `flag` gave; raises UsageError for no
    name."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{flag}: expected a key's name of letters, digits, dots, hyphens, underscores, got"
            f" {name!a}",
            hint=_FORMS if flag == SIGN_FLAG else f"as in {flag} build-machine",
        )
    return keys_directory(state_root) / f"{name}{SUFFIX}"


def generate(path: Path) -> Signer:
    """Make a new pair of keys in a new file, durably; raises UsageError if it exists, OSError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    note, bundle = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
    data = b"".join(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for key in (note, bundle)
    )
    with as_owner_of_path(path):
        for parent in reversed(path.parents):
            if not parent.exists():
                parent.mkdir(mode=0o700, exist_ok=True)
        _create(path, data)
    return KeySigner(note, bundle)


def _create(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists: a key is never replaced",
            hint="give the new key another place: --id NAME or --file FILE",
        ) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            path.unlink()
        raise
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def load_key(flag: str, path: str) -> Signer:
    """Return the signer of a key file; raises UsageError."""
    return _signer_of(flag, path, read_private(flag, path))


def stored_keys(state_root: Path) -> list[StoredKey]:
    """Return the keys that have names, by name; raises LogUnreadable."""
    directory = keys_directory(state_root)
    try:
        names = sorted(entry for entry in os.listdir(directory) if entry.endswith(SUFFIX))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(directory, error) from error
    return [_stored(directory / name) for name in names]


def _stored(path: Path) -> StoredKey:
    name = path.name.removesuffix(SUFFIX)
    try:
        return StoredKey(name, path, load_key(name, str(path)))
    except UsageError as error:
        return StoredKey(name, path, None, error.message)


def open_signer(
    reference: str,
    state_root: Path,
    environment: Mapping[str, str],
    can_read: Callable[[str], str | None] = lambda _path: None,
) -> Signer:
    """Return the signer that a reference names; raises UsageError.

    `can_read` names the grant by which the command may read a path: a key that it can read is
    refused. A caller with a command checks a command line first (`signing_command`) and then uses
    `command_signer`.
    """
    if reference.startswith(COMMAND):
        return command_signer(signing_command(reference, environment), environment)
    if reference.startswith(KEYRING):
        return _signer_of(SIGN_FLAG, reference, _from_keyring(reference.removeprefix(KEYRING)))
    path = key_file(reference, state_root)
    grant = can_read(path)
    if grant is not None and os.path.isfile(path):
        raise UsageError(
            f"{SIGN_FLAG}: expected a key that the command can't read, got {path}, which {grant}"
            " opens to it",
            hint="`nono-trio keys generate --id NAME` makes one in the state directory, which no"
            " grant opens",
        )
    return load_key(SIGN_FLAG, path)


def command_signer(words: Sequence[str], environment: Mapping[str, str]) -> Signer:
    """Return the signer that `signing_command` gave the words of; raises UsageError."""
    try:
        return CommandSigner(words, environment)
    except SignerFailed as error:
        raise UsageError(f"{SIGN_FLAG}: {error.strerror}", hint=_PROTOCOL) from None


_PROTOCOL: Final = (
    "the command is called with `public` (prints both public keys), `ed25519` or `ecdsa-p256`"
    " (signs stdin); see docs/proof.md"
)


def key_file(reference: str, state_root: Path) -> str:
    """Return the path of the key file that a name or a path means; raises UsageError."""
    if reference.startswith(FILE):
        return os.path.abspath(expand_home(reference.removeprefix(FILE)))
    if not reference:
        raise UsageError(
            f"{SIGN_FLAG}: expected a key, got an empty text",
            hint="a variable that was meant to give it may not be set",
        )
    if _SCHEME.match(reference):
        raise UsageError(f"{SIGN_FLAG}: expected a key, got {reference!a}", hint=_FORMS)
    if "/" in reference:
        return os.path.abspath(expand_home(reference))
    path = key_path(state_root, reference, SIGN_FLAG)
    if not path.exists():
        raise UsageError(
            f"{SIGN_FLAG}: there is no key {reference} in {path.parent}",
            hint=f"nono-trio keys generate --id {shlex.quote(reference)}",
        )
    return str(path)


def _signer_of(flag: str, named: str, data: bytes) -> Signer:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        keys = [
            serialization.load_pem_private_key(block, password=None)
            for block in _BLOCK.findall(data)
        ]
    except (ValueError, TypeError):
        keys = []
    if len(keys) == 2 and not _BLOCK.sub(b"", data).strip():
        note, bundle = keys
        if (
            isinstance(note, Ed25519PrivateKey)
            and isinstance(bundle, ec.EllipticCurvePrivateKey)
            and isinstance(bundle.curve, ec.SECP256R1)
        ):
            return KeySigner(note, bundle)
    raise UsageError(
        f"{flag}: expected two private keys, Ed25519 and then ECDSA P-256, in {named}",
        hint="`nono-trio keys generate` makes such a file",
    )


def _from_keyring(words: str) -> bytes:
    service, _, user = words.partition("/")
    if not service or not user:
        raise UsageError(f"{SIGN_FLAG}: expected {KEYRING}SERVICE/USER", hint=_FORMS)
    try:
        import keyring
    except ImportError:
        raise UsageError(
            f"{SIGN_FLAG}: {KEYRING} needs the package keyring", hint="pip install keyring"
        ) from None
    try:
        found = keyring.get_password(service, user)
    except Exception as error:  # each backend has errors of its own
        raise UsageError(
            f"{SIGN_FLAG}: the keyring failed: {type(error).__name__}",
            hint="`keyring --list-backends` shows what this machine has",
        ) from None
    if found is None:
        raise UsageError(
            f"{SIGN_FLAG}: the keyring has nothing for {words!a}",
            hint="store the text of a key file: python3 -c 'import keyring, sys;"
            " keyring.set_password(*sys.argv[1:], sys.stdin.read())'"
            f" {shlex.quote(service)} {shlex.quote(user)} < KEY-FILE",
        )
    return f"{str(found).strip()}\n".encode()


def signing_command(reference: str, environment: Mapping[str, str]) -> list[str]:
    """Return the words of a signer's command line, the program by its path; raises UsageError."""
    return command_words(SIGN_FLAG, reference.removeprefix(COMMAND), environment)


def command_words(flag: str, line: str, environment: Mapping[str, str]) -> list[str]:
    """Return the words of a command line of ours, the program by its path; raises UsageError."""
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not words:
        raise UsageError(f"{flag}: expected a command line", hint="see its quotes")
    program = shutil.which(expand_home(words[0]), path=environment.get("PATH"))
    if program is None:
        raise UsageError(f"{flag}: there is no program {words[0]!a}", hint=program_hint(words[0]))
    return [os.path.abspath(program), *words[1:]]
