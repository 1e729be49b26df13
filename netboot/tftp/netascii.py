"""Mode netascii: text as NVT ASCII (RFC 1350, section 1; RFC 764). Pure."""


def to_netascii(data: bytes) -> bytes:
    """LF becomes CR LF, a lone CR becomes CR NUL."""
    return data.replace(b"\r", b"\r\0").replace(b"\n", b"\r\n")
