"""Signers: a key in memory, or a command that has its key elsewhere (HSM, KMS, agent).

Rules of this file: a signer blocks, so it is called in a thread; it answers within SIGN_SECONDS or
raises SignerFailed. Each signature is checked with the public key before it is used: a signer that
answers with anything else has failed. A command gets the bytes on stdin and one more argument that
says what is asked of it: `public` (print both public keys in PEM), `ed25519` (64 raw bytes) or
`ecdsa-p256` (DER, over SHA-256 of the bytes).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, Protocol

from nono_trio.audit.keys.signature import is_ed25519, is_p256
from nono_trio.core.proof.note import Signature, encode_note, key_id
from nono_trio.core.proof.public_keys import PublicKeys, parse_public_keys, public_keys
from nono_trio.posix.bounded_command import BoundedCommand, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from nono_trio.core.proof.tree_head import TreeHead

# A key service answers in a second; a person who has to touch a token needs some more.
SIGN_SECONDS: Final = 10.0
MAX_ANSWER: Final = 64 * 1024  # two public keys have 400 bytes
PUBLIC: Final = "public"
ED25519: Final = "ed25519"
P256: Final = "ecdsa-p256"


class SignerFailed(OSError):
    """There is no signature: the signer failed, took too long, or signed with another key."""

    hint: Final = (
        "see what became of the signer; `--audit-mode best-effort` goes on without signatures"
    )

    def __init__(self, text: str) -> None:
        super().__init__(errno.EIO, text)


class Signer(Protocol):
    """Signs with both keys of a pair; blocks for at most SIGN_SECONDS a call."""

    @property
    def public(self) -> PublicKeys:
        """The public keys."""
        ...

    def sign_note(self, data: bytes) -> bytes:
        """Return the Ed25519 signature over `data`; raises SignerFailed."""
        ...

    def sign_bundle(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature (DER) over `data`; raises SignerFailed."""
        ...

    def stop(self) -> None:
        """End a signature that another thread asks for, and make none any more."""
        ...


def signed_note(signer: Signer, head: TreeHead) -> str:
    """Return the note of a tree head, signed under its origin; raises SignerFailed."""
    text = head.encode()
    signature = signer.sign_note(text.encode())
    line = Signature(head.origin, key_id(head.origin, signer.public.note), signature)
    return encode_note(text, [line])


class KeySigner:
    """Signs with keys in memory: 50 microseconds each."""

    def __init__(self, note: Ed25519PrivateKey, bundle: EllipticCurvePrivateKey) -> None:
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        der, info = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self._note, self._bundle = note, bundle
        self._algorithm = ec.ECDSA(hashes.SHA256())
        self._public = public_keys(
            [note.public_key().public_bytes(der, info), bundle.public_key().public_bytes(der, info)]
        )

    @property
    def public(self) -> PublicKeys:
        """The public keys."""
        return self._public

    def sign_note(self, data: bytes) -> bytes:
        """Return the Ed25519 signature over `data`."""
        return self._note.sign(data)

    def sign_bundle(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature (DER) over `data`."""
        return self._bundle.sign(data, self._algorithm)

    def stop(self) -> None:
        """Do nothing: a signature takes no time."""


class CommandSigner:
    """Lets a command sign; raises SignerFailed if it can't tell its public keys."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._program = command[0]
        self._commands = {
            what: BoundedCommand([*command, what], environment, most=MAX_ANSWER)
            for what in (PUBLIC, ED25519, P256)
        }
        answer = self._ask(PUBLIC, b"")
        try:
            self._public = parse_public_keys(answer)
        except ValueError as error:
            raise SignerFailed(f"the signer {self.name} `{PUBLIC}`: {error}") from error
        # Each check imports at its first call; a run imports nothing once its command has started.
        is_ed25519(self._public.note, b"", b"")
        is_p256(self._public.bundle, b"", b"")

    @property
    def name(self) -> str:
        """The name of the program; its arguments may have a secret."""
        return os.path.basename(self._program)

    @property
    def public(self) -> PublicKeys:
        """The public keys."""
        return self._public

    def sign_note(self, data: bytes) -> bytes:
        """Return the Ed25519 signature over `data`; raises SignerFailed."""
        signature = self._ask(ED25519, data)
        if not is_ed25519(self._public.note, signature, data):
            raise SignerFailed(f"the signer {self.name} gave no signature of its Ed25519 key")
        return signature

    def sign_bundle(self, data: bytes) -> bytes:
        """Return the ECDSA P-256 signature (DER) over `data`; raises SignerFailed."""
        signature = self._ask(P256, data)
        if not is_p256(self._public.bundle, signature, data):
            raise SignerFailed(f"the signer {self.name} gave no signature of its P-256 key")
        return signature

    def stop(self) -> None:
        """End the command that another thread waits for, and run it never again."""
        for command in self._commands.values():
            command.stop()

    def _ask(self, what: str, data: bytes) -> bytes:
        try:
            answer = self._commands[what].ask(data, SIGN_SECONDS)
        except CommandFailed as failed:
            raise SignerFailed(f"the signer {self.name} {failed}") from failed
        if answer.code != 0:
            raise SignerFailed(
                f"the signer {self.name} `{what}` ended with exit code {answer.code}"
            )
        return answer.output
