"""A machine that behaves: its exchanges, while others do not."""

import socket
import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Self

from netns import INTERFACE, Host

from netboot.errors import WireError
from netboot.wire.dhcp import BOOTREPLY, BROADCAST_FLAG, DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, REQUESTED_ADDRESS, SERVER_IDENTIFIER, MessageType
from netboot.wire.frame import build_udp_frame, parse_udp_frame
from netboot.wire.tftp import Data, Error, ErrorCode, build_ack, build_error, parse_tftp

ANY, EVERYBODY = IPv4Address(0), IPv4Address("255.255.255.255")
_SO_RCVBUFFORCE = 33
_ANSWER_S = 1.0


def framed(payload: bytes, mac: str) -> bytes:
    """A broadcast of a client without an address: the server's limit for one address does not spare it these."""
    return build_udp_frame(
        payload,
        source_mac=bytes.fromhex(mac.replace(":", "")),
        destination_mac=b"\xff" * 6,
        source=ANY,
        source_port=68,
        destination=EVERYBODY,
        destination_port=67,
    )


class CleanClient:
    """On a cable of its own. An exchange is tried anew after a second, as clients do, and takes so much longer."""

    def __init__(self, host: Host, server: IPv4Address) -> None:
        with host.entered():
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._raw.bind((INTERFACE, 0x0800))
        self._raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)  # a flood is broadcast: it comes here too
        self._host = host
        self._server = server
        self._chaddr = bytes.fromhex(host.mac.replace(":", ""))
        self._xid = 1
        self._address = ANY

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._raw.close()

    def lease(self) -> None:
        """DISCOVER to ACK."""
        self._xid += 1
        options = Options().with_option(MESSAGE_TYPE, MessageType.DISCOVER)
        discover = DhcpPacket(1, self._xid, self._chaddr, flags=BROADCAST_FLAG, options=options)
        offer = self._ask(discover, MessageType.OFFER)
        options = Options().with_option(MESSAGE_TYPE, MessageType.REQUEST)
        options = options.with_option(SERVER_IDENTIFIER, self._server).with_option(REQUESTED_ADDRESS, offer.yiaddr)
        assert self._ask(replace(discover, options=options), MessageType.ACK).yiaddr == offer.yiaddr
        self._address = offer.yiaddr

    def renew(self) -> None:
        """A REQUEST in state RENEWING, whose answer goes to the address that it holds."""
        self._xid += 1
        options = Options().with_option(MESSAGE_TYPE, MessageType.REQUEST)
        self._ask(DhcpPacket(1, self._xid, self._chaddr, ciaddr=self._address, options=options), MessageType.ACK)

    def fetch(self, path: str, most_bytes: int = 100_000) -> bytes:
        """A file by TFTP, or its first bytes; empty when there is none. The host needs an address for it."""
        with self._host.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(_ANSWER_S)
            content, blocks = b"", 0
            question, to = b"\0\1" + path.encode() + b"\0octet\0", (str(self._server), 69)
            for _ in range(most_bytes // 512 + 10):
                sock.sendto(question, to)
                try:
                    answer, to = sock.recvfrom(2000)
                except TimeoutError:
                    continue
                packet = parse_tftp(answer)
                if isinstance(packet, Error):
                    return b""
                assert isinstance(packet, Data), packet
                if packet.block == blocks + 1:
                    content, blocks = content + packet.payload, blocks + 1
                question = build_ack(blocks)
                if len(packet.payload) < 512:
                    sock.sendto(question, to)
                    return content
                if len(content) >= most_bytes:
                    sock.sendto(build_error(ErrorCode.NOT_DEFINED, "enough"), to)
                    return content
            raise AssertionError(f"{path} does not come")

    def _ask(self, packet: DhcpPacket, wanted: MessageType) -> DhcpPacket:
        frame = framed(build_dhcp(packet), self._host.mac)
        for _ in range(5):
            self._raw.send(frame)
            deadline = time.monotonic() + _ANSWER_S
            while (left := deadline - time.monotonic()) > 0:
                self._raw.settimeout(left)
                try:
                    answer = parse_dhcp(parse_udp_frame(self._raw.recv(4000)).payload)
                except (WireError, TimeoutError):
                    continue
                if answer.op == BOOTREPLY and answer.xid == self._xid and answer.message_type is wanted:
                    return answer
        raise AssertionError(f"no {wanted.name} in {5 * _ANSWER_S:.0f} seconds")
