"""A DHCP packet and its answer as an event of the boot log. Pure."""

from ipaddress import IPv4Address
from sys import intern

from netboot.boot.selection import explain_boot_file
from netboot.bootlog.events import Exchange, cut
from netboot.dhcp.classify import classify
from netboot.dhcp.reply import Arrival, Reply
from netboot.model import BootFile, Ignored
from netboot.wire.dhcp import NO_ADDRESS, DhcpPacket
from netboot.wire.dhcp_options import (
    CLIENT_ARCH,
    HOST_NAME,
    MESSAGE,
    REQUESTED_ADDRESS,
    SERVER_IDENTIFIER,
    USER_CLASS,
    VENDOR_CLASS,
)
from netboot.wire.pxe import arch_of_class, is_http_class, is_pxe_class

BOOT_CLASSES = (b"PXEClient", b"HTTPClient")


def is_boot_class(request: DhcpPacket) -> bool:
    """Whether a boot program may ask: cheap, for the many packets of machines that only want an address."""
    return request.options.raw.get(VENDOR_CLASS.code, b"").startswith(BOOT_CLASSES)


def exchange_of(request: DhcpPacket, arrival: Arrival, outcome: Reply | Ignored) -> Exchange:
    """What the machine asked, what it was answered, and why.

    What is the same for a whole room is one string in memory.
    """
    options = request.options
    vendor_class = options.get(VENDOR_CLASS) or ""
    is_boot = is_pxe_class(vendor_class) or is_http_class(vendor_class)
    client = classify(request)
    archs = options.get(CLIENT_ARCH)
    arch = archs[0] if archs else arch_of_class(vendor_class)
    user_classes = options.get(USER_CLASS) or ()
    wished = options.get(REQUESTED_ADDRESS) or request.ciaddr
    firmware = "" if isinstance(client, Ignored) else str(client.firmware)
    kind = request.message_type
    answer = address = boot_server = boot_file = ""
    if isinstance(outcome, Ignored):
        why = outcome.reason
    else:
        answered = outcome.packet.message_type
        answer = answered.name if answered else "BOOTP"
        address = _text(outcome.packet.yiaddr)
        match outcome.boot:
            case BootFile(server, name):
                boot_server, boot_file = str(server), name
                why = "" if isinstance(client, Ignored) else explain_boot_file(client.firmware, name)
            case Ignored(reason):
                why = outcome.packet.options.get(MESSAGE) or reason
    return Exchange(
        message=kind.name if kind else "BOOTP",
        port=arrival.local_port,
        is_firmware=is_boot and not any(word in firmware for word in ("grub", "agent")),
        firmware=firmware,
        arch=-1 if arch is None else arch,
        vendor_class=intern(cut(vendor_class)),
        user_class=cut(b",".join(user_classes).decode("ascii", "backslashreplace")),
        hostname=cut(options.get(HOST_NAME) or ""),
        wished=_text(wished),
        server=intern(_text(options.get(SERVER_IDENTIFIER) or NO_ADDRESS)),
        relay=intern(_text(request.giaddr)),
        answer=answer,
        address=address,
        boot_server=intern(boot_server),
        boot_file=intern(cut(boot_file)),
        why=intern(cut(why)),
    )


def _text(address: IPv4Address) -> str:
    return "" if address == NO_ADDRESS else str(address)
