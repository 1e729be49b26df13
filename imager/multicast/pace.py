"""When the sender may send, and how fast. Pure: the clock is passed in, in seconds.

Rates are bits of Ethernet frames a second, as an operator's limit and a link's speed are.
"""

from imager.wire.session import PACKET_BYTES

IPV4_BYTES = 20
IPV6_BYTES = 40
"""Of a header (RFC 791, section 3.1; RFC 8200, section 3)."""


def frame_bytes(packet_bytes: int, ip_bytes: int = IPV4_BYTES) -> int:
    """A packet with its UDP, IP and Ethernet headers."""
    return packet_bytes + 8 + ip_bytes + 14


def max_burst(packet_bytes: int) -> int:
    """Packets of one send: what one UDP datagram's length field and the kernel's segmentation allow."""
    return min(64, 65507 // packet_bytes)


def longest_burst(packet_bytes: int) -> int:
    """Packets that burst_packets() gives at most."""
    return _SENDS * max_burst(packet_bytes)


FRAME_BYTES = frame_bytes(PACKET_BYTES)
MAX_BURST = max_burst(PACKET_BYTES)
BURST_S = 0.001
"""A burst holds at most what the rate gives in this time, at first..."""
_SENDS = 4
"""...or so many whole sends, in half of that time: together they cost both ends less than one by one."""
LEAST_BURST_S = 0.0001
"""...and in this when small buffers on the way overflow."""
_DEBT_BURSTS = 5
"""How much of the time that was missed (another process ran) is made up for, in the time of bursts."""


class Pacer:
    """Spaces bursts so that a rate holds."""

    def __init__(self, packet_bytes: int = PACKET_BYTES, ip_bytes: int = IPV4_BYTES) -> None:
        self._due = 0.0
        self._frame_bits = frame_bytes(packet_bytes, ip_bytes) * 8

    def due(self) -> float:
        """When the next burst may leave."""
        return self._due

    def sent(self, packets: int, rate_bps: float, now: float, burst_s: float = BURST_S) -> None:
        """A burst left; rate 0 means no limit."""
        if rate_bps > 0:
            self._due = max(self._due, now - _DEBT_BURSTS * burst_s) + packets * self._frame_bits / rate_bps
        else:
            self._due = now


def burst_packets(rate_bps: float, packet_bytes: int = PACKET_BYTES, burst_s: float = BURST_S) -> int:
    """How many packets may leave at once: small buffers on the way hold little of a fast sender's burst."""
    one_send = max_burst(packet_bytes)
    if rate_bps <= 0:
        return _SENDS * one_send
    packets = int(rate_bps * burst_s / (frame_bytes(packet_bytes) * 8))
    if packets <= one_send:
        return max(1, packets)
    return min(_SENDS, max(1, packets // 2 // one_send)) * one_send
