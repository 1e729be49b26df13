"""The boot services alone, as a program to be run inside a namespace; prints what happens, a JSON object a line.

dhcp_tftp_program.py INTERFACE {server|proxy|tftp} [--pool FIRST LAST] [--lease SECONDS] [--files DIRECTORY]
                     [--answer-within SECONDS]
"""

import argparse
import asyncio
import json
import sys
from ipaddress import IPv4Address
from pathlib import Path

from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import Arrival, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.errors import ServiceError
from netboot.model import BootClient, BootFile, Firmware, Ignored
from netboot.services.counters import PacketCounters
from netboot.services.dhcp import DhcpService
from netboot.services.interface import Interface, find_interface
from netboot.services.tftp import ANSWER_WITHIN_S, TransferReport, serve_tftp
from netboot.wire.dhcp import DhcpPacket


def tell(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


def tell_exchange(request: DhcpPacket, arrival: Arrival, outcome: Reply | Ignored) -> None:
    kind = request.message_type
    if isinstance(outcome, Ignored):
        tell(asked=kind.name if kind else "BOOTP", mac=request.mac, ignored=outcome.reason)
    else:
        answer = outcome.packet.message_type
        assert answer is not None
        tell(
            asked=kind.name if kind else "BOOTP",
            mac=request.mac,
            answer=answer.name,
            address=str(outcome.packet.yiaddr),
            delivery=outcome.destination.delivery,
            sent_to=str(arrival.destination),
        )


def tell_transfer(report: TransferReport) -> None:
    tell(
        path=report.path,
        size=report.size,
        outcome=type(report.outcome).__name__,
        detail=str(report.outcome),
        block_bytes=report.block_bytes,
        blocks=report.blocks_acknowledged,
    )


def tell_start(peer: str, path: str, size: int) -> None:
    tell(started=path, size=size, peer=peer)


async def serve_dhcp(service: DhcpService, ready: asyncio.Event) -> None:
    service.open()
    try:
        ready.set()
        await service.run()
    finally:
        service.close()


async def run(options: argparse.Namespace, interface: Interface) -> None:
    counters = PacketCounters()
    ready = asyncio.Event()

    def choose(client: BootClient) -> BootFile | Ignored:
        name = "bios/core.0" if client.firmware in (Firmware.BIOS, Firmware.IPXE_BIOS) else "uefi/shimx64.efi"
        return BootFile(interface.address, name)

    def open_file(path: str, peer: str) -> bytes | Path | Ignored:
        if path == "rendered":
            return f"for {peer}\n".encode()
        if path == "raises":
            raise RuntimeError("a bug in a renderer")
        file = options.files / path
        return file if file.exists() else Ignored(f"no such file: {path}")

    if options.service == "tftp":
        service = serve_tftp(
            interface,
            open_file,
            counters=counters,
            on_transfer=tell_transfer,
            on_start=tell_start,
            ready=ready,
            answer_within_s=options.answer_within,
        )
    else:
        if options.service == "proxy":
            responder: DhcpServer | DhcpProxy = DhcpProxy(interface.address, choose)
        else:
            first, last = (IPv4Address(text) for text in options.pool)
            subnet = Subnet(interface.network, (Pool(first, last),), options.lease)
            responder = DhcpServer(ServerConfig(interface.address, subnet, probe=False), LeaseTable(), choose)
        ports = (67, 4011) if options.service == "proxy" else (67,)
        dhcp = DhcpService(interface, responder, ports, counters=counters, on_exchange=tell_exchange)
        service = serve_dhcp(dhcp, ready)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(service)
        await ready.wait()
        tell(ready=True)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.readline():  # each line asks for the counters
            tell(
                received=counters.received,
                junk=counters.junk,
                ignored=dict(counters.ignored),
                answered=dict(counters.answered),
                failed=dict(counters.failed),
            )
        serving.cancel()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("service", choices=["server", "proxy", "tftp"])
    parser.add_argument("--pool", nargs=2)
    parser.add_argument("--lease", type=int, default=3600)
    parser.add_argument("--files", type=Path)
    parser.add_argument("--answer-within", type=float, default=ANSWER_WITHIN_S)
    options = parser.parse_args()
    code = 0
    try:
        asyncio.run(run(options, find_interface(options.interface)))
    except* ServiceError as errors:
        tell(error=str(errors.exceptions[0]))
        code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
