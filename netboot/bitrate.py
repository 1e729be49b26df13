"""Bit rates as an administrator writes them. Pure."""


def parse_bitrate(text: str) -> int:
    """Bits a second of `900m`, `1.5g`, `250000k` or a number. ValueError otherwise."""
    factor = {"k": 10**3, "m": 10**6, "g": 10**9}.get(text[-1:].lower(), 1)
    bits = float(text[:-1] if factor > 1 else text) * factor
    if not 1e5 <= bits <= 1e12:
        raise ValueError(f"{text} is not between 100k and 1000g")
    return int(bits)
