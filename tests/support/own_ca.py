"""A certificate authority in files, as a user brings one with --tls-ca-cert and --tls-ca-key."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path


def write_authority(directory: Path, name: str = "own") -> tuple[Path, Path]:
    """Write NAME.pem and NAME.key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"test authority {name}")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    serial = x509.random_serial_number()
    builder = x509.CertificateBuilder(
        subject, subject, key.public_key(), serial, now - day, now + day
    )
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    certificate = (
        builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / f"{name}.pem", directory / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate_file, key_file
