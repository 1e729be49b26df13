"""The doctor's DHCP packets, built and read by scapy: not by the code that answers them. No I/O.

Sources: RFC 2131, 2132, 3004, 4578; PXE 2.1, section 2.2 for port 4011.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from netboot.doctor.offers import Row

BROADCAST_FLAG = 0x8000
HOST_NAME = b"roomcast-doctor"
"""So that the logs of whoever is asked tell who asked."""
DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
_NO_ADDRESS = IPv4Address(0)
_ASKED_FOR = bytes((1, 2, 3, 6, 12, 15, 28, 43, 51, 54, 60, 66, 67, 97, *range(128, 136)))
_LARGEST_ANSWER = 1464
_FILE_HAS_OPTIONS, _SNAME_HAS_OPTIONS = 1, 2
_DISCOVERY_CONTROL, _SKIP_DISCOVERY = 6, 0x08


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer, as it was read."""

    kind: int
    """Message type."""
    xid: int
    chaddr: bytes
    server: IPv4Address | None
    """Option 54."""
    source: IPv4Address
    mac: str
    address: IPv4Address
    boot_server: IPv4Address | None
    boot_file: str
    vendor_class: str
    skips_discovery: bool


def probe_mac(own: bytes) -> bytes:
    """The hardware address that the doctor's clients bear: always the same on one interface, so that run after run it
    is one address that a server keeps for them; locally administered, so that it is nobody's."""
    return b"\x02" + hashlib.sha256(b"roomcast doctor" + own).digest()[:5]


def build_discover(row: Row, mac: bytes, xid: int, secs: int) -> bytes:
    """A DISCOVER as firmware of this kind sends it; it asks for a broadcast answer."""
    return _build(row, mac, xid, DISCOVER, secs, _NO_ADDRESS)


def build_proxy_request(row: Row, mac: bytes, xid: int, own: IPv4Address) -> bytes:
    """The REQUEST that a PXE client sends to a proxy's port 4011 once it has its address, `own`."""
    return _build(row, mac, xid, REQUEST, 0, own)


def _build(row: Row, mac: bytes, xid: int, kind: int, secs: int, own: IPv4Address) -> bytes:
    options: list[Any] = [
        ("message-type", kind),
        ("param_req_list", list(_ASKED_FOR)),
        ("max_dhcp_size", _LARGEST_ANSWER),
        ("vendor_class_id", row.vendor_class.encode()),
        ("hostname", HOST_NAME),
        (93, row.arch.to_bytes(2, "big")),
        (94, b"\x01\x03\x10"),
        (97, b"\0" + hashlib.sha256(mac).digest()[:16]),
    ]
    if row.user_class:
        options.append((77, row.user_class.encode()))
        options.append((175, b"\xb1\x05\x01\x1a\xf4\x10\x41\x13\x01\x01\x19\x01\x01"))  # seen on: iPXE 2019
    flags = 0 if own != _NO_ADDRESS else BROADCAST_FLAG
    header = BOOTP(op=1, htype=1, hlen=6, xid=xid, secs=secs, flags=flags, ciaddr=str(own), chaddr=mac)
    return bytes(header / DHCP(options=[*options, "end"])).ljust(300, b"\0")


def read_frame(frame: bytes) -> Heard | None:
    """An answer out of an Ethernet frame; None for what is none, whatever the bytes are."""
    try:
        packet = Ether(frame)
        ip, udp = packet.getlayer(IP), packet.getlayer(UDP)
        if ip is None or udp is None:
            return None
        return _read(bytes(udp.payload), IPv4Address(ip.src), str(packet.src).lower())
    except Exception:  # scapy's dissectors raise errors of many kinds on junk; to the doctor all of it is junk
        return None


def read_payload(payload: bytes, source: IPv4Address, mac: str = "") -> Heard | None:
    """An answer out of a datagram; None for what is none, whatever the bytes are."""
    try:
        return _read(payload, source, mac)
    except Exception:  # as above
        return None


def _read(payload: bytes, source: IPv4Address, mac: str) -> Heard | None:
    packet = BOOTP(payload)
    layer = packet.getlayer(DHCP)
    if layer is None or packet.op != 2:
        return None
    file, sname = bytes(packet.file), bytes(packet.sname)
    options = _by_name(layer)
    overload = options.get("dhcp-option-overload", 0)
    if isinstance(overload, int) and overload & _FILE_HAS_OPTIONS:
        options, file = {**options, **_by_name(DHCP(file))}, b""
    if isinstance(overload, int) and overload & _SNAME_HAS_OPTIONS:
        options = {**options, **_by_name(DHCP(sname))}
    name = _text(options.get("boot-file-name", b"")) or _text(file)
    next_server = IPv4Address(packet.siaddr)
    boot_server = next_server if next_server != _NO_ADDRESS else _address(_text(options.get("tftp_server_name", b"")))
    return Heard(
        kind=int(options["message-type"]),
        xid=int(packet.xid),
        chaddr=bytes(packet.chaddr)[:6],
        server=_address(str(options.get("server_id", ""))),
        source=source,
        mac=mac,
        address=IPv4Address(packet.yiaddr),
        boot_server=boot_server,
        boot_file=name,
        vendor_class=_text(options.get("vendor_class_id", b"")),
        skips_discovery=_skips_discovery(options.get("vendor_specific", b"")),
    )


def _by_name(layer: Any) -> Mapping[str, Any]:
    """Options by scapy's name: the first value of each."""
    found: dict[str, Any] = {}
    for option in layer.options:
        if isinstance(option, tuple) and len(option) > 1:
            found.setdefault(str(option[0]), option[1])
    return found


def _text(value: Any) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        return None


def _skips_discovery(vendor_options: Any) -> bool:
    """PXE 2.1, table 2-1: sub-option 6, bit 3."""
    rest = vendor_options if isinstance(vendor_options, bytes) else b""
    while len(rest) >= 2 and rest[0] != 255:
        code, length = rest[0], rest[1]
        if code == _DISCOVERY_CONTROL and length == 1 and len(rest) >= 3:
            return bool(rest[2] & _SKIP_DISCOVERY)
        rest = rest[2 + length :]
    return False
