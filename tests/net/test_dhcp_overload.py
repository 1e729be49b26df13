"""More is asked at once than can be answered: a server that was held up, and everything that came meanwhile."""

import signal
import socket
from ipaddress import IPv4Address

import pytest
from dhcp_tftp_running import running
from netns import Lan

from netboot.dhcp.backlog import MOST
from netboot.wire.dhcp import DhcpPacket, Options, build_dhcp
from netboot.wire.dhcp_options import MESSAGE_TYPE, MessageType

pytestmark = pytest.mark.root

DISCOVERS = MOST + 276
NOT_ANSWERED = "more is asked than can be answered"


def asked(number: int, kind: MessageType, relay: str) -> bytes:
    options = Options().with_option(MESSAGE_TYPE, kind)
    ciaddr = IPv4Address(relay if kind is MessageType.INFORM else 0)
    chaddr = bytes.fromhex("525400") + number.to_bytes(3, "big")
    return build_dhcp(DhcpPacket(1, number, chaddr, ciaddr=ciaddr, giaddr=IPv4Address(relay), options=options))


def test_whoever_has_an_address_is_answered_first_then_the_newest_newcomers_and_the_rest_is_counted() -> None:
    with Lan(2, network="10.99.0.0/24") as lan:
        server, relay = lan.hosts
        with relay.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock, running(server, "server", "--pool", "10.99.0.50", "10.99.0.250") as program:
            sock.bind((relay.ip, 67))
            program.process.send_signal(signal.SIGSTOP)
            for number in range(1, DISCOVERS + 1):
                sock.sendto(asked(number, MessageType.DISCOVER, relay.ip), (server.ip, 67))
                if number == MOST // 2:
                    sock.sendto(asked(0, MessageType.INFORM, relay.ip), (server.ip, 67))
            program.process.send_signal(signal.SIGCONT)
            told = [program.wait_for(lambda told: "asked" in told) for _ in range(DISCOVERS + 1)]
            counters = program.counters()
    first, *later = (each for each in told if "answer" in each)
    offered = [each["mac"] for each in later[:40]]
    assert (first["asked"], first["answer"]) == ("INFORM", "ACK")
    assert offered == sorted(offered, reverse=True)
    assert counters["received"] == DISCOVERS + 1
    assert counters["ignored"] == {NOT_ANSWERED: sum("ignored" in each for each in told)}
    assert counters["ignored"][NOT_ANSWERED] >= 100
