"""Which DHCP packets say that a machine is at home: those of an installed system."""

import pytest
from dhcp_builders import a_discover, a_packet

from netboot.deployment.homecoming import is_of_a_system
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import VENDOR_CLASS, MessageType


@pytest.mark.parametrize(
    ("packet", "is_home"),
    [
        (a_discover(), True),
        (a_packet(MessageType.REQUEST, (VENDOR_CLASS, "MSFT 5.0")), True),
        (a_packet(MessageType.REQUEST, (VENDOR_CLASS, "dhcpcd-9.4.1:Linux-6.1.0")), True),
        (a_packet(MessageType.REQUEST), True),
        (a_discover(0), False),
        (a_discover(7), False),
        (a_discover(16), False),
        (a_discover(7, ipxe=True), False),
        (a_packet(MessageType.REQUEST, (VENDOR_CLASS, "PXEClient")), False),
        (a_packet(MessageType.DISCOVER, (VENDOR_CLASS, "HTTPClient:Arch:00016:UNDI:003001")), False),
        (a_packet(MessageType.REQUEST, (VENDOR_CLASS, "roomcast-agent")), False),
        (a_packet(MessageType.RELEASE), False),  # it goes
        (a_packet(MessageType.INFORM), False),  # by hand, from anywhere
    ],
)
def test_an_installed_system_is_told_from_firmware_and_from_our_agent(packet: DhcpPacket, is_home: bool) -> None:
    assert is_of_a_system(packet) is is_home
