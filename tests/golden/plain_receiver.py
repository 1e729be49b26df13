"""A receiver of file casts by docs/wire.md alone. Nothing of imager is in it: what it needs and the document does not
say is a fault of the document.

It is slow and keeps no time. Its caller carries what it says, and what it hears.
"""

import json
import struct
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC, VERSION = 0xCA, 3
SOURCE, REPAIR, BEACON, JOIN, NACK, STATUS, DONE, ACK = range(8)
ENDED = 3
MOST_SYMBOLS, ROWS = 200, 56


def hello(nonce: bytes) -> bytes:
    """What is said first at the TCP port of the catalogue, by one who has no number yet."""
    return b"RCF1" + bytes(2) + nonce


def read_catalogue(said: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """What an open sender says there: the catalogue, and the hash of each chunk."""
    assert said[:5] == b"RCF1\0"
    at, frames = 21, []
    while at < len(said):
        length = int.from_bytes(said[at : at + 4], "big")
        frames.append(said[at + 4 : at + 4 + length])
        at += 4 + length
    catalogue, hashes = json.loads(frames[0]), b"".join(frames[1:])
    assert blake3(catalogue["file_bytes"].to_bytes(8, "big") + hashes).hexdigest() == catalogue["root"]
    return catalogue, [hashes[at : at + 32] for at in range(0, len(hashes), 32)]


def bitmap(count: int) -> bytes:
    """The frame that says that all is lacking."""
    bits = bytearray(max(1, -(-count // 8)))
    for number in range(count):
        bits[number // 8] |= 0x80 >> number % 8
    return len(bits).to_bytes(4, "big") + bytes(bits)


def split(symbols: int) -> list[int]:
    """How many of a chunk's symbols each of its blocks has."""
    blocks = -(-symbols // MOST_SYMBOLS)
    return [symbols // blocks + (number < symbols % blocks) for number in range(blocks)]


def product(a: int, b: int) -> int:
    """In GF(256)."""
    result = 0
    while b:
        if b & 1:
            result ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11D
        b >>= 1
    return result


def inverse(a: int) -> int:
    return next(b for b in range(256) if product(a, b) == 1)


def added(symbol: bytes, other: bytes, factor: int) -> bytes:
    """symbol + factor * other."""
    table = bytes(product(factor, value) for value in range(256))
    sum_ = int.from_bytes(symbol, "big") ^ int.from_bytes(other.translate(table), "big")
    return sum_.to_bytes(len(symbol), "big")


def solve(size: int, symbols: dict[int, bytes], rows: dict[int, bytes]) -> list[bytes]:
    """All symbols of a block of this size, from some of them and as many repair symbols as are missing."""
    missing = [number for number in range(size) if number not in symbols]
    equations = []
    for row, repair in sorted(rows.items())[: len(missing)]:
        coefficients = [inverse((MOST_SYMBOLS + row) ^ number) for number in range(size)]
        for number, symbol in symbols.items():
            repair = added(repair, symbol, coefficients[number])
        equations.append(([coefficients[number] for number in missing], repair))
    for at in range(len(missing)):
        pivot = next(number for number in range(at, len(missing)) if equations[number][0][at])
        equations[at], equations[pivot] = equations[pivot], equations[at]
        factors, value = equations[at]
        scale = inverse(factors[at])
        equations[at] = [product(scale, factor) for factor in factors], added(bytes(len(value)), value, scale)
        for number, (factors, value) in enumerate(equations):
            if number != at and (factor := factors[at]):
                difference = [a ^ product(factor, b) for a, b in zip(factors, equations[at][0], strict=True)]
                equations[number] = difference, added(value, equations[at][1], factor)
    whole = {**symbols, **dict(zip(missing, (value for _, value in equations), strict=True))}
    return [whole[number] for number in range(size)]


class PlainReceiver:
    """One receiving of a file cast."""

    def __init__(self, catalogue: dict[str, Any], hashes: list[bytes]) -> None:
        cast = catalogue["cast"]
        self._session, self._number = cast["session"], cast["receiver"]
        self._cast_key, self._control_key = (
            AESGCM(bytes.fromhex(cast["cast_key"])),
            AESGCM(bytes.fromhex(cast["control_key"])),
        )
        self.symbol_bytes = cast["packet_bytes"] - 32
        self._hashes = hashes
        whole, rest = divmod(catalogue["file_bytes"], catalogue["chunk_bytes"])
        self._lengths = [catalogue["chunk_bytes"]] * whole + [rest] * (rest > 0)
        self._blocks: list[tuple[int, int, int]] = []  # chunk, first symbol, symbols
        first = 0
        for chunk, length in enumerate(self._lengths):
            for count in split(-(-length // self.symbol_bytes)):
                self._blocks.append((chunk, first, count))
                first += count
        self._symbols: dict[int, bytes] = {}
        self._rows: dict[int, dict[int, bytes]] = {}
        self.chunks: dict[int, bytes] = {}
        self._said = 0
        self._answered = (1 << 63) - 1
        self._beaconed = -1
        self._beacons = 0
        self._taken: set[int] = set()
        self._heard = -1
        self._from: int | None = None
        self._repairs = self._frontier = 0
        self.accepted = self.over = False
        self.rejected = 0

    # what comes

    def hear_group(self, data: bytes) -> None:
        head = data[:16]
        magic, kind, row, session, number, sequence = struct.unpack(">BBHIII", head)
        if (magic, kind >> 4, session) != (MAGIC, VERSION, self._session):
            self.rejected += 1
            return
        kind &= 15
        try:
            body = self._cast_key.decrypt(head[4:], data[16:], head)
        except InvalidTag:
            self.rejected += 1
            return
        if kind == BEACON and sequence > self._beaconed:
            self._beaconed = sequence
            self._beacons = min(self._beacons + 1, 255)
            following, self._frontier, _, phase, _ = struct.unpack(">IIHBB", body[:12])
            self._heard = max(self._heard, following - 1)
            self.over = phase == ENDED
        elif kind in (SOURCE, REPAIR) and sequence not in self._taken and sequence >= (self._from or 0):
            self._taken.add(sequence)
            self._heard = max(self._heard, sequence)
            if kind == SOURCE:
                self._symbols[number] = body
            else:
                self._repairs += 1
                self._rows.setdefault(number, {})[row] = body
            self._assemble()
        else:
            self.rejected += 1

    def hear_sender(self, data: bytes) -> None:
        head = data[:16]
        magic, kind, receiver, session, counter = struct.unpack(">BBHIQ", head)
        if (magic, kind, receiver, session) != (MAGIC, VERSION << 4 | ACK, self._number, self._session):
            self.rejected += 1
            return
        assert counter > self._answered
        self._answered = counter
        of, answer, sequence = struct.unpack(">BBxxI", self._control_key.decrypt(head[4:], data[16:], head))
        assert answer == 0
        if of == JOIN:
            self.accepted = True
            self._from = sequence
        self.over = self.over or of == DONE

    def _assemble(self) -> None:
        blocks: dict[int, list[bytes]] = {}
        for block, (chunk, first, count) in enumerate(self._blocks):
            if chunk in self.chunks:
                continue
            here = {number: self._symbols[first + number] for number in range(count) if first + number in self._symbols}
            rows = self._rows.get(block, {})
            if len(here) + len(rows) < count:
                continue
            symbols = solve(count, here, rows) if len(here) < count else [here[number] for number in range(count)]
            blocks.setdefault(chunk, []).append(b"".join(symbols))
        for chunk, parts in blocks.items():
            if len(parts) == sum(each == chunk for each, _, _ in self._blocks):
                data = b"".join(parts)[: self._lengths[chunk]]
                assert blake3(data).digest() == self._hashes[chunk]
                self.chunks[chunk] = data

    # what is said

    def join(self) -> bytes:
        return self._seal(JOIN, len(self._lengths).to_bytes(4, "big"))

    def nack(self) -> bytes:
        """Of all that is lacking of what the sender has passed, as the last beacon says."""
        records = b""
        count = 0
        for block, (chunk, first, symbols) in enumerate(self._blocks[: self._frontier]):
            rows = self._rows.get(block, {})
            here = sum(first + number in self._symbols for number in range(symbols))
            lacking = symbols - here - len(rows)
            if chunk not in self.chunks and lacking > 0:
                records += struct.pack(">IHH", block, lacking, 1 + max(rows, default=-1))
                count += 1
        return self._seal(NACK, self._report() + struct.pack(">HH", count, 0) + records)

    def done(self) -> bytes:
        return self._seal(DONE, self._report())

    def _report(self) -> bytes:
        lost = 0
        if self._from is not None:
            lost = max(0, self._heard + 1 - self._from - sum(number >= self._from for number in self._taken))
        heard, done, slots = self._heard % 2**32, len(self.chunks), len(self._lengths)
        numbers = heard, len(self._taken), lost, 0, self._repairs, done, slots, slots
        return struct.pack(">8IBBBx", *numbers, 0, 0, self._beacons)

    def _seal(self, kind: int, body: bytes) -> bytes:
        head = struct.pack(">BBHIQ", MAGIC, VERSION << 4 | kind, self._number, self._session, self._said)
        self._said += 1
        return head + self._control_key.encrypt(head[4:], body, head)
