"""A key that sender and receivers of a file cast were given beforehand, and what it seals: their TCP connections.

Pure: no I/O. Each connection has keys of its own, by HKDF (RFC 5869) over a nonce of either side, so nothing of an
earlier one can be said again. The receiver proves that it has the key before the sender admits it.
"""

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from imager.errors import MessageError
from imager.wire.session import KEY_BYTES, TAG_BYTES

NONCE_BYTES = 16
PROOF_BYTES = 32
KEY_RANGE = range(16, 65537)
"""Bytes of a pre-shared key: below, it could be guessed from one recorded connection."""
_CONTEXT = b"roomcast catalogue 1 "


class SealedConnection:
    """The keys of one connection. Frames of either direction are sealed and opened in their order."""

    def __init__(self, key: bytes, sender_nonce: bytes, receiver_nonce: bytes) -> None:
        """`key`: as shared, of a length in KEY_RANGE."""
        self._key = key
        self._salt = sender_nonce + receiver_nonce
        self._ciphers = {name: AESGCM(self._derive(name)) for name in (b"sender", b"receiver")}
        self._counts = {name: 0 for name in self._ciphers}

    def _derive(self, purpose: bytes) -> bytes:
        return HKDF(SHA256(), KEY_BYTES, self._salt, _CONTEXT + purpose).derive(self._key)

    def proof(self) -> bytes:
        """What only a receiver with the key can say."""
        return hmac.digest(self._derive(b"proof"), self._salt, sha256)

    def is_proof(self, proof: bytes) -> bool:
        return hmac.compare_digest(proof, self.proof())

    def seal(self, by: bytes, frame: bytes | memoryview) -> bytes:
        """The next frame of `by`: b"sender" or b"receiver"."""
        return self._ciphers[by].encrypt(self._nonce(by), frame, None)

    def open(self, by: bytes, sealed: bytes) -> bytes:
        """The next frame of the other side. Raises MessageError when it was not sealed as that."""
        try:
            return self._ciphers[by].decrypt(self._nonce(by), sealed, None)
        except InvalidTag as error:
            raise MessageError("it is not sealed with the key") from error

    def _nonce(self, by: bytes) -> bytes:
        count = self._counts[by]
        self._counts[by] = count + 1
        return count.to_bytes(12, "big")


SEALED_MORE = TAG_BYTES
"""Bytes that sealing adds to a frame."""
