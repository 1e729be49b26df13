"""What a receiver is told of its cast, checked before anything is made of it. No I/O."""

from ipaddress import ip_address

from imager.errors import CastError
from imager.wire.messages import CastAddress
from imager.wire.session import KEY_BYTES, MAX_RECEIVER, PACKET_BYTES_RANGE

_PORTS = range(1, 1 << 16)


def check_address(address: CastAddress, has_packets: bool = True) -> None:
    """Raises CastError when no receiver could use it. `has_packets` False: nothing is cast, so ports do not count."""
    try:
        keys = bytes.fromhex(address.cast_key), bytes.fromhex(address.control_key)
    except ValueError:
        keys = b"", b""
    if any(len(key) != KEY_BYTES for key in keys) or address.packet_bytes not in PACKET_BYTES_RANGE:
        raise CastError("the sender told keys or a packet length that cannot be; is it of another version?")
    if address.session not in range(1 << 32) or address.receiver not in range(1, MAX_RECEIVER + 1):
        raise CastError(f"the sender told session {address.session} and receiver {address.receiver}, which cannot be")
    if not has_packets:
        return
    if not _is_group_of(address) or address.data_port not in _PORTS or address.control_port not in _PORTS:
        raise CastError(
            f"the sender told group {address.group!r}, data port {address.data_port} and control port "
            f"{address.control_port}, which cannot be"
        )


def _is_group_of(address: CastAddress) -> bool:
    """A group; of IPv6 with a sender of IPv6: that of an IPv4 group is who was asked, by address or name."""
    try:
        group = ip_address(address.group)
        return group.is_multicast and (group.version == 4 or ip_address(address.sender).version == 6)
    except ValueError:
        return False
