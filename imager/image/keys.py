"""The key that signs manifests: Ed25519, made once for an appliance and kept in its data directory."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from imager.errors import StoreError

PRIVATE_NAME = "signing.key"
PUBLIC_NAME = "signing.pub"


def load_or_create_signing_key(directory: Path) -> Ed25519PrivateKey:
    """The key in `directory`/signing.key (PEM, mode 0600), made with its signing.pub (hex) when there is none.

    Safe with two programs that start at once: one of them makes the key, both use it.
    """
    path = directory / PRIVATE_NAME
    try:
        if not path.exists():
            _create(directory, path)
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise StoreError(f"the signing key {path} cannot be used: {error}; restore it from a backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise StoreError(f"the signing key {path} is not an Ed25519 key; restore it from a backup")
    return key


def public_key_bytes(key: Ed25519PrivateKey) -> bytes:
    """The public key, 32 raw bytes: what an agent is told to believe."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _create(directory: Path, path: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    temporary = directory / f".{PRIVATE_NAME}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike rename, it does not replace a key that another program just made
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    (directory / PUBLIC_NAME).write_text(public_key_bytes(key).hex() + "\n")
    directory_descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(directory_descriptor)
    finally:
        os.close(directory_descriptor)
