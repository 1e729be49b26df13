"""The erasure code of a source block: systematic Reed-Solomon over GF(256). Pure.

Repair symbol r of a block of k symbols is the sum of C[r, j] * symbol j with the Cauchy coefficient C[r, j] = 1 /
((MAX_BLOCK_SYMBOLS + r) xor j), field polynomial 0x11D: the rows are the same for every k, and any k symbols of a
block, source or repair, give it back. Two ways compute the same bytes: ISA-L, by ctypes, and numpy.
"""

import ctypes
import functools
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

MAX_BLOCK_SYMBOLS = 200
REPAIR_ROWS = 256 - MAX_BLOCK_SYMBOLS
"""Different repair symbols of one block."""

_POLYNOMIAL = 0x11D
_LIBRARY = "libisal.so.2"


class ErasureCode(Protocol):
    """One way to compute. Arrays of symbols are contiguous in their last axis, and uint8."""

    name: str

    def encode(self, source: ByteArray, first_row: int, out: ByteArray) -> None:
        """Repair rows first_row... of the block `source`, contiguous (k, length), into `out` (rows, length)."""

    def decode(self, block: ByteArray, missing: IntArray, rows: IntArray, repair: ByteArray) -> None:
        """Fill block[missing] of a contiguous (k, length) block from as many repair symbols, of the given rows."""


def load_code() -> ErasureCode:
    """ISA-L where its library loads and proves itself, else numpy."""
    try:
        code = IsalCode()
    except (OSError, AttributeError):
        return TableCode()
    source = np.arange(7 * 64, dtype=np.uint32).astype(np.uint8).reshape(7, 64)
    ours, theirs = np.empty((3, 64), np.uint8), np.empty((3, 64), np.uint8)
    TableCode().encode(source, 2, ours)
    code.encode(source, 2, theirs)
    return code if np.array_equal(ours, theirs) else TableCode()


@functools.cache
def _field() -> tuple[ByteArray, ByteArray]:
    """Products (256, 256) and inverses (256) of the field; the inverse of 0 is given as 0."""
    power = np.zeros(510, np.uint8)
    logarithm = np.zeros(256, np.int64)
    value = 1
    for exponent in range(255):
        power[exponent] = power[exponent + 255] = value
        logarithm[value] = exponent
        value <<= 1
        if value & 256:
            value ^= _POLYNOMIAL
    product = power[logarithm[:, None] + logarithm[None, :]]
    product[0, :] = product[:, 0] = 0
    inverse = power[255 - logarithm]
    inverse[0] = 0
    return product, inverse


@functools.cache
def coefficients() -> ByteArray:
    """C, of shape (REPAIR_ROWS, MAX_BLOCK_SYMBOLS)."""
    _, inverse = _field()
    rows = np.arange(MAX_BLOCK_SYMBOLS, 256)[:, None]
    return np.ascontiguousarray(inverse[rows ^ np.arange(MAX_BLOCK_SYMBOLS)[None, :]])


def _invert(matrix: ByteArray) -> ByteArray:
    """The inverse of a square matrix over the field, by elimination; every square part of C has one."""
    product, inverse = _field()
    size = len(matrix)
    work = np.concatenate((matrix, np.eye(size, dtype=np.uint8)), axis=1)
    for column in range(size):
        pivot = column + int(np.flatnonzero(work[column:, column])[0])
        work[[column, pivot]] = work[[pivot, column]]
        work[column] = product[inverse[work[column, column]], work[column]]
        factors = work[:, column].copy()
        factors[column] = 0
        work ^= product[factors[:, None], work[column][None, :]]
    return np.ascontiguousarray(work[:, size:])


def _multiply(matrix: ByteArray, symbols: ByteArray) -> ByteArray:
    """matrix (m, k) times symbols (k, length): for each symbol of the result, one sum for each bit of the
    coefficients.
    """
    product, _ = _field()
    result = np.zeros((len(matrix), symbols.shape[1]), np.uint8)
    for out, row in zip(result, matrix, strict=True):
        for bit in range(8):
            chosen = symbols[(row >> bit & 1).astype(np.bool_)]
            if len(chosen):
                out ^= product[1 << bit][np.bitwise_xor.reduce(chosen, axis=0)]
    return result


class TableCode:
    """The portable way: numpy and nothing else, about 100 MB/s of source for one repair symbol."""

    name = "numpy"

    def encode(self, source: ByteArray, first_row: int, out: ByteArray) -> None:
        out[:] = _multiply(coefficients()[first_row : first_row + len(out), : len(source)], source)

    def decode(self, block: ByteArray, missing: IntArray, rows: IntArray, repair: ByteArray) -> None:
        known = np.setdiff1d(np.arange(len(block)), missing)
        matrix = coefficients()[rows]
        rest = repair ^ _multiply(matrix[:, known], block[known])
        block[missing] = _multiply(_invert(matrix[:, missing]), rest)


class IsalCode:
    """Intel's ISA-L. Raises OSError when its library is not there. Its calls release the GIL."""

    name = "isa-l"

    def __init__(self) -> None:
        library = ctypes.CDLL(_LIBRARY)
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._init_tables = library.ec_init_tables
        self._init_tables.argtypes, self._init_tables.restype = [number, number, pointer, pointer], None
        self._encode_data = library.ec_encode_data
        self._encode_data.argtypes, self._encode_data.restype = [number] * 3 + [pointer] * 3, None
        self._invert_matrix = library.gf_invert_matrix
        self._invert_matrix.argtypes, self._invert_matrix.restype = [pointer, pointer, number], number
        self._width = self._table_width()
        self._tables = self._expand(coefficients())
        self._zero = np.zeros(0, np.uint8)

    def encode(self, source: ByteArray, first_row: int, out: ByteArray) -> None:
        assert source.flags.c_contiguous and out.strides[-1] == 1 and source.shape[1] == out.shape[1]
        self._apply(first_row, len(out), _row_pointers(source), _row_pointers(out), source.shape[1])

    def decode(self, block: ByteArray, missing: IntArray, rows: IntArray, repair: ByteArray) -> None:
        assert block.flags.c_contiguous and len(missing) == len(rows) == len(repair)
        count, length = len(missing), block.shape[1]
        if len(self._zero) < length:
            self._zero = np.zeros(length, np.uint8)
        pointers = _row_pointers(block)
        lacking = pointers[missing]
        pointers[missing] = _address(self._zero)
        sums = np.empty((count, length), np.uint8)
        tables = np.ascontiguousarray(self._tables[rows, : len(block)])
        sum_pointers = _row_pointers(sums)
        self._encode_data(length, len(block), count, _address(tables), _address(pointers), _address(sum_pointers))
        sums ^= repair
        matrix = np.ascontiguousarray(coefficients()[np.ix_(rows, missing)])
        inverse = np.empty((count, count), np.uint8)
        if self._invert_matrix(_address(matrix), _address(inverse), count):
            raise ValueError("rows or missing symbols repeat")
        tables = self._expand(inverse)
        lacking = np.ascontiguousarray(lacking)
        self._encode_data(length, count, count, _address(tables), _address(sum_pointers), _address(lacking))

    def _apply(
        self, first_row: int, count: int, sources: npt.NDArray[np.uint64], outs: npt.NDArray[np.uint64], length: int
    ) -> None:
        tables = np.ascontiguousarray(self._tables[first_row : first_row + count, : len(sources)])
        self._encode_data(length, len(sources), count, _address(tables), _address(sources), _address(outs))

    def _expand(self, matrix: ByteArray) -> ByteArray:
        """ISA-L's tables of a matrix (m, k): shape (m, k, bytes a coefficient), 32 or, with GFNI, 8."""
        m, k = matrix.shape
        contiguous = np.ascontiguousarray(matrix)
        tables = np.zeros(m * k * 32, np.uint8)
        self._init_tables(k, m, _address(contiguous), _address(tables))
        return np.ascontiguousarray(tables[: m * k * self._width].reshape(m, k, self._width))

    def _table_width(self) -> int:
        mark = np.full(32, 0xA5, np.uint8)
        one = np.ones(1, np.uint8)
        self._init_tables(1, 1, _address(one), _address(mark))
        return 8 if bool((mark[8:] == 0xA5).all()) else 32


def _address(array: npt.NDArray[Any]) -> int:
    """Where an array's bytes start; `.ctypes.data` takes five times as long to say it."""
    address: int = array.__array_interface__["data"][0]
    return address


def _row_pointers(rows: ByteArray) -> npt.NDArray[np.uint64]:
    """The addresses of the rows of a (n, length) array."""
    step = np.uint64(rows.strides[0])
    return np.uint64(_address(rows)) + np.arange(len(rows), dtype=np.uint64) * step
