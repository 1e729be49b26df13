"""What hides and proves the datagrams of a cast: AES-256-GCM, with many packets a call. Pure: no I/O.

A sealed datagram has a head of HEADER_BYTES, which is proven and not hidden; bytes 4 to 15 of it are the nonce. What is
hidden follows, as long as it was, then a tag. Nothing here sees to it that a nonce comes only once under a key: that
is the sessions' part, by sequences and counters that never go back.

Packets of a burst or a batch lie at fixed strides, so the views that the cipher needs are made once. Where the
library cannot write its result into a given place (before cryptography 47: a distribution's), packets are opened by
OpenSSL's libcrypto itself, in a quarter of the time.
"""

import ctypes
from collections import deque
from collections.abc import Callable
from itertools import repeat
from operator import itemgetter, length_hint
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from imager.errors import PacketError
from imager.wire.session import HEADER_BYTES, KEY_BYTES, TAG_BYTES, Reject, symbol_bytes

_NONCE = slice(4, 16)

ByteArray = npt.NDArray[np.uint8]


class Payloads:
    """What packets are to hold, in memory that is used again and again: the views of its rows are made once."""

    __slots__ = ("array", "rows")

    def __init__(self, array: ByteArray) -> None:
        """Contiguous, of shape (n, symbol bytes)."""
        self.array = array
        self.rows = _rows(array)


class Sealer(Protocol):
    """Seals packets of one array, whose heads are filled in."""

    def seal(self, first: int, payloads: Payloads, start: int, count: int) -> None:
        """`count` payloads from row `start` into the packets from number `first`."""


class Opener(Protocol):
    """Opens packets of one array."""

    def open(self, first: int, count: int, out: memoryview | None) -> list[int]:
        """Open consecutive packets into `out`, one payload behind the other; None: only prove them.

        Returns which of them, 0..count-1, are forged or damaged; what `out` has in their places means nothing.
        """


class Cipher(Protocol):
    """One key."""

    def seal(self, head: bytes, body: bytes) -> bytes:
        """The whole datagram."""

    def open(self, datagram: bytes) -> bytes:
        """Its body. Raises PacketError when it is not sealed with this key."""

    def sealer(self, packets: ByteArray) -> Sealer: ...

    def opener(self, packets: ByteArray) -> Opener:
        """`packets` has shape (n, packet bytes) and is contiguous; what is in it may change until open()."""


class AesGcm:
    """A Cipher. Raises ValueError for a key that is not KEY_BYTES long."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; {KEY_BYTES} are wanted")
        self._key = key
        self._cipher = AESGCM(key)

    def seal(self, head: bytes, body: bytes) -> bytes:
        return head + self._cipher.encrypt(head[_NONCE], body, head)

    def open(self, datagram: bytes) -> bytes:
        try:
            return self._cipher.decrypt(datagram[_NONCE], datagram[HEADER_BYTES:], datagram[:HEADER_BYTES])
        except (InvalidTag, ValueError) as error:  # ValueError: too short to have a nonce
            raise PacketError(Reject.FORGED) from error

    def sealer(self, packets: ByteArray) -> Sealer:
        return _AesSealer(self._cipher, packets)

    def opener(self, packets: ByteArray) -> Opener:
        if hasattr(AESGCM, "decrypt_into"):
            return _AesOpener(self._cipher, packets)
        return LibcryptoOpener(self._key, packets)


def _rows(array: ByteArray) -> list[memoryview]:
    data = array.data.cast("B")
    step = array.shape[1]
    return [data[at : at + step] for at in range(0, len(data), step)]


class _AesSealer:
    def __init__(self, cipher: AESGCM, packets: ByteArray) -> None:
        self._encrypt_into = cipher.encrypt_into
        rows = _rows(packets)
        self._nonces = [row[_NONCE] for row in rows]
        self._heads = [row[:HEADER_BYTES] for row in rows]
        self._sealed = [row[HEADER_BYTES:] for row in rows]

    def seal(self, first: int, payloads: Payloads, start: int, count: int) -> None:
        packets, rows = slice(first, first + count), payloads.rows[start : start + count]
        # no line of Python for a packet: a sixth of what sealing takes
        _drain(map(self._encrypt_into, self._nonces[packets], rows, self._heads[packets], self._sealed[packets]))


_drain = deque[object](maxlen=0).extend


class _AesOpener:
    def __init__(self, cipher: AESGCM, packets: ByteArray) -> None:
        self._decrypt_into = cipher.decrypt_into
        rows = _rows(packets)
        self._nonces = [row[_NONCE] for row in rows]
        self._heads = [row[:HEADER_BYTES] for row in rows]
        self._sealed = [row[HEADER_BYTES:] for row in rows]
        size = symbol_bytes(packets.shape[1])
        self._scratch = memoryview(bytearray(size))
        self._cuts = [slice(at, at + size) for at in range(0, len(rows) * size, size)]
        self._cutters: dict[int, Callable[[memoryview], tuple[memoryview, ...]]] = {}  # no more than packets

    def open(self, first: int, count: int, out: memoryview | None) -> list[int]:
        if count == 1:
            place = self._scratch if out is None else out
            try:
                self._decrypt_into(self._nonces[first], self._sealed[first], self._heads[first], place)
            except InvalidTag:
                return [0]
            return []
        packets = slice(first, first + count)
        nonces = iter(self._nonces[packets])
        places = repeat(self._scratch) if out is None else self._cut(out, count)
        opened = map(self._decrypt_into, nonces, self._sealed[packets], self._heads[packets], places)
        forged: list[int] = []
        while True:
            try:
                _drain(opened)  # no line of Python for a packet that is not forged
                return forged
            except InvalidTag:
                forged.append(count - 1 - length_hint(nonces))

    def _cut(self, out: memoryview, count: int) -> tuple[memoryview, ...]:
        """The places of so many payloads, two at least, one behind the other."""
        cutter = self._cutters.get(count)
        if cutter is None:
            cutter = self._cutters[count] = itemgetter(*self._cuts[:count])
        return cutter(out)


# OpenSSL: include/openssl/evp.h
_EVP_CTRL_AEAD_SET_TAG = 0x11


class LibcryptoOpener:
    """An Opener by libcrypto. Raises OSError where there is none."""

    def __init__(self, key: bytes, packets: ByteArray) -> None:
        library = ctypes.CDLL("libcrypto.so.3")
        pointer, number = ctypes.c_void_p, ctypes.c_int
        library.EVP_aes_256_gcm.restype = library.EVP_CIPHER_CTX_new.restype = pointer
        library.EVP_CIPHER_CTX_free.argtypes = [pointer]
        library.EVP_DecryptInit_ex.argtypes = [pointer] * 5
        library.EVP_DecryptUpdate.argtypes = [pointer, pointer, pointer, pointer, number]
        library.EVP_DecryptFinal_ex.argtypes = [pointer] * 3
        library.EVP_CIPHER_CTX_ctrl.argtypes = [pointer, number, number, pointer]
        self._library = library
        self._context = pointer(library.EVP_CIPHER_CTX_new())
        if not self._context or not library.EVP_DecryptInit_ex(
            self._context, library.EVP_aes_256_gcm(), None, key, None
        ):
            raise OSError("libcrypto gives no AES-256-GCM")
        self._packets = packets  # their memory is used by address
        self._step = packets.shape[1]
        self._symbol_bytes = symbol_bytes(self._step)
        self._scratch = bytearray(self._symbol_bytes)
        self._length = number()

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._library.EVP_CIPHER_CTX_free(self._context)

    def open(self, first: int, count: int, out: memoryview | None) -> list[int]:
        start, update = self._library.EVP_DecryptInit_ex, self._library.EVP_DecryptUpdate
        control, finish = self._library.EVP_CIPHER_CTX_ctrl, self._library.EVP_DecryptFinal_ex
        context, length, size = self._context, ctypes.addressof(self._length), self._symbol_bytes
        target = self._scratch if out is None else out
        if len(target) < (size if out is None else count * size) or first + count > len(self._packets):
            raise ValueError("out of the packets or their place")
        place = ctypes.addressof(ctypes.c_char.from_buffer(target))
        at = self._packets.ctypes.data + first * self._step
        forged: list[int] = []
        for number in range(count):
            start(context, None, None, None, at + _NONCE.start)
            update(context, None, length, at, HEADER_BYTES)
            update(context, place, length, at + HEADER_BYTES, size)
            control(context, _EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, at + HEADER_BYTES + size)
            if finish(context, None, length) <= 0:
                forged.append(number)
            at += self._step
            if out is not None:
                place += size
        return forged


class Unsealed:
    """A Cipher that neither hides nor proves: for the simulation of thousands of receivers."""

    def __init__(self, key: bytes) -> None:
        pass

    def seal(self, head: bytes, body: bytes) -> bytes:
        return head + body + bytes(TAG_BYTES)

    def open(self, datagram: bytes) -> bytes:
        return datagram[HEADER_BYTES:-TAG_BYTES]

    def sealer(self, packets: ByteArray) -> Sealer:
        return _Copier(packets)

    def opener(self, packets: ByteArray) -> Opener:
        return _Copier(packets)


class _Copier:
    def __init__(self, packets: ByteArray) -> None:
        self._payloads = packets[:, HEADER_BYTES:-TAG_BYTES]

    def seal(self, first: int, payloads: Payloads, start: int, count: int) -> None:
        self._payloads[first : first + count] = payloads.array[start : start + count]

    def open(self, first: int, count: int, out: memoryview | None) -> list[int]:
        if out is not None:
            np.frombuffer(out, np.uint8).reshape(count, -1)[:] = self._payloads[first : first + count]
        return []
