"""What an answer tells a boot client to fetch: `siaddr`, `file` and the options beside them. Pure."""

from ipaddress import IPv4Address

from netboot.model import BootClient, BootFile
from netboot.wire.dhcp import DhcpPacket, Options
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    CLIENT_MACHINE_ID,
    PARAMETER_LIST,
    TFTP_SERVER_NAME,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
)
from netboot.wire.pxe import HTTP_CLIENT, PXE_CLIENT, build_discovery_control

_MAX_FILE_FIELD_BYTES = 127
"""`file` is 128 bytes with its closing NUL (RFC 2131, section 2)."""


def boot_options(
    request: DhcpPacket, client: BootClient, boot: BootFile, *, as_proxy: bool
) -> tuple[IPv4Address, bytes, Options]:
    """`siaddr`, `file` and the options that tell a client what to fetch.

    The name goes to `file`, which every ROM reads, and to option 67 when the client asked for it or the name is too
    long for the field. Option 60 makes UEFI take the packet as one for PXE, and 43 keeps it from a search on port 4011;
    UEFI HTTP boot takes an answer with its own vendor class alone.
    iPXE takes the name as it is and needs neither, except from a proxy, whom it knows by option 60.
    """
    name = boot.name.encode("ascii")
    fits = len(name) <= _MAX_FILE_FIELD_BYTES
    asked = request.options.get(PARAMETER_LIST) or ()
    options = Options()
    if TFTP_SERVER_NAME.code in asked:
        options = options.with_option(TFTP_SERVER_NAME, str(boot.server))
    if BOOT_FILE_NAME.code in asked or not fits:
        options = options.with_option(BOOT_FILE_NAME, boot.name)
    if client.firmware.by_http:
        return boot.server, name if fits else b"", options.with_option(VENDOR_CLASS, HTTP_CLIENT)
    if as_proxy or not client.firmware.is_ipxe:
        options = options.with_option(VENDOR_CLASS, PXE_CLIENT)
        options = options.with_option(VENDOR_OPTIONS, build_discovery_control())
        machine_id = request.options.get(CLIENT_MACHINE_ID)
        if machine_id is not None:
            options = options.with_option(CLIENT_MACHINE_ID, machine_id)  # RFC 4578, section 2.3: echoed
    return boot.server, name if fits else b"", options
