"""32-bit counters of the wire that wrap, seen from a counter that does not. Pure."""

_MODULUS = 1 << 32


def distance(older: int, newer: int) -> int:
    """How far `newer` is ahead of `older`, both modulo 2**32: -2**31..2**31-1."""
    ahead = (newer - older) % _MODULUS
    return ahead - _MODULUS if ahead >= _MODULUS // 2 else ahead


def extend(near: int, wrapped: int) -> int:
    """The counter whose low 32 bits are `wrapped`, nearest to `near`."""
    return near + distance(near, wrapped)
