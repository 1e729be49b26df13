"""Mode netascii: text as NVT ASCII (RFC 1350, section 1; RFC 764). Pure."""

import re

_LINE_ENDS = re.compile(rb"\r|\n")


def to_netascii(data: bytes) -> bytes:
    """LF becomes CR LF, a lone CR becomes CR NUL."""
    return _LINE_ENDS.sub(lambda match: b"\r\n" if match[0] == b"\n" else b"\r\0", data)
