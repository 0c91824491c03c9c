"""Signs the checkpoints of one session, and its bundle at the seal.

Rules of this file: it blocks, so it is called in the thread of the syncs, and no producer waits for
it. In strict mode a signer that fails raises SignerFailed, which ends the session as a failed
write does. In best-effort mode the user is warned, at doubling intervals, and the checkpoint is
written unsigned: `audit verify` says up to which record the log is signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from nono_trio.audit.keys.signer import SIGN_SECONDS, SignerFailed, signed_note
from nono_trio.core.log.attestation import (
    attestation_of,
    encode_bundle,
    encode_statement,
    signed_message,
)
from nono_trio.core.log.policy_json import SigningKeys
from nono_trio.core.log.session_json import signed_bytes
from nono_trio.core.proof import base64_text
from nono_trio.core.proof.tree_head import TreeHead, session_origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from nono_trio.audit.keys.signer import Signer
    from nono_trio.core.log.session_json import AuditAttestation, Checkpoint, SessionMetadata


class CheckpointSigner:
    """The signer of one session; `strict` decides what its failure means."""

    def __init__(self, signer: Signer, session_id: str, *, strict: bool) -> None:
        self.warn: Callable[[str], None] = lambda _text: None
        self._signer = signer
        self._origin = session_origin(session_id)
        self._strict = strict
        self._failures = 0

    seconds: Final = SIGN_SECONDS
    """The longest time of one signature."""

    @property
    def keys(self) -> SigningKeys:
        """The public keys, as the policy has them."""
        public = self._signer.public
        return SigningKeys(
            note=base64_text.encode(public.note), bundle=base64_text.encode(public.bundle)
        )

    def sign(self, checkpoint: Checkpoint, root: bytes) -> Checkpoint:
        """Return the checkpoint with its signatures; `root` is that of the RFC 6962 tree.

        Raises SignerFailed (strict); returns it unsigned (best-effort).
        """
        head = TreeHead(self._origin, checkpoint.event_count, root)
        try:
            return self._signed(checkpoint, head)
        except SignerFailed as error:
            if self._strict:
                raise
            self._tell(error)
            return checkpoint

    def attest(self, metadata: SessionMetadata) -> tuple[AuditAttestation, bytes] | None:
        """Return what session.json says of the bundle of a sealed session, and the bundle.

        None if it can't be signed (best-effort). Raises SignerFailed (strict).
        """
        attestation = attestation_of(self._signer.public)
        payload = encode_statement(metadata, attestation.key_id)
        try:
            signature = self._signer.sign_bundle(signed_message(payload))
        except SignerFailed as error:
            if self._strict:
                raise
            self._tell(error)
            return None
        return attestation, encode_bundle(payload, signature, attestation.key_id)

    def _signed(self, checkpoint: Checkpoint, head: TreeHead) -> Checkpoint:
        with_note = msgspec.structs.replace(checkpoint, note=signed_note(self._signer, head))
        over_line = self._signer.sign_note(signed_bytes(with_note))
        return msgspec.structs.replace(with_note, line_signature=base64_text.encode(over_line))

    def _tell(self, error: SignerFailed) -> None:
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # 1, 2, 4, 8 ...: no flood of warnings
            self.warn(f"audit: the log goes on without a signature: {error.strerror}")
