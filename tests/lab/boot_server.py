"""The boot half of the appliance for one test, as a process in its network namespace: DHCP or proxy, TFTP, HTTP.

Real services and the real tree; only what a machine shall do next comes from a JSON file, read each time it is asked:
{"MAC": {"kind": "local", "machine": "...", "reason": "..."}}. Writes one JSON line a request to standard output.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import structlog

from netboot.api.boot_tree import LeasedBootFiles
from netboot.boot.contexts import BootKind, NextBoot
from netboot.boot.files import BootFiles, BootRequest, BootSettings, Transport
from netboot.boot.grub_images import build_boot_images
from netboot.boot.render import Renderer
from netboot.boot.selection import select_boot_file
from netboot.dhcp.leases import LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import BootClient, BootFile, Ignored
from netboot.services.dhcp import DhcpService
from netboot.services.interface import find_interface
from netboot.services.tftp import TransferReport, serve_tftp
from netboot.tftp.transfer import TransferFinished

KEY = "5c" * 32


def say(**event: Any) -> None:
    print(json.dumps({"at": round(time.monotonic(), 2), **event}), flush=True)


def http_server(address: str, port: int, files: BootFiles, breaks: str) -> ThreadingHTTPServer:
    """`breaks`: a path's end; such a file is cut off in its middle."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # UEFI HTTP boot asks for the size first
            self.do_GET()

        def do_GET(self) -> None:
            peer = IPv4Address(self.client_address[0])
            found = files.open(self.path.removeprefix("/boot/"), BootRequest(peer, None, Transport.HTTP))
            say(by="http", method=self.command, path=self.path, peer=str(peer), ok=not isinstance(found, Ignored))
            if isinstance(found, Ignored):
                self.send_error(404)
                return
            body = found.content.read_bytes() if isinstance(found.content, Path) else found.content
            self.send_response(200)
            self.send_header("Content-Length", str(found.size))
            self.end_headers()
            if self.command == "GET" and breaks and self.path.endswith(breaks):
                self.wfile.write(body[: len(body) // 2])
            elif self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    return ThreadingHTTPServer((address, port), Handler)


async def serve(options: argparse.Namespace) -> None:
    interface = find_interface(options.interface)

    def next_boot(mac: str) -> NextBoot:
        step = json.loads(options.next_boot.read_text()).get(mac)
        say(by="next_boot", mac=mac, known=step is not None)
        if step is None:
            return NextBoot(BootKind.AGENT, reason="not known yet")
        return NextBoot(BootKind(step["kind"]), step.get("machine", ""), step.get("reason", ""))

    def choose(client: BootClient) -> BootFile | Ignored:
        chosen = select_boot_file(client, interface.address, options.http_port, by_proxy=options.proxy)
        say(by="dhcp", mac=client.mac, firmware=client.firmware, arch=client.arch, told=getattr(chosen, "name", None))
        return chosen

    def transferred(report: TransferReport) -> None:
        ok = isinstance(report.outcome, TransferFinished)
        say(by="tftp", path=report.path, peer=report.peer, ok=ok, size=report.size, s=round(report.seconds, 2))

    files = BootFiles(
        boot_directory=options.data / "boot",
        agent_directory=options.data / "agent",
        renderer=Renderer(),
        settings=BootSettings(interface.address, options.http_port, KEY),
        next_boot=next_boot,
    )
    build_boot_images(options.data / "boot", interface.address)
    if not options.no_http:
        web = http_server(str(interface.address), options.http_port, files, options.http_breaks)
        threading.Thread(target=web.serve_forever, daemon=True).start()
    leases = LeaseTable()
    tree = LeasedBootFiles(files, leases)
    if options.proxy:
        responder: DhcpProxy | DhcpServer = DhcpProxy(interface.address, choose)
    else:
        pool = Pool(interface.address + 99, interface.address + 149)
        config = ServerConfig(interface.address, Subnet(interface.network, (pool,)), probe=False)
        responder = DhcpServer(config, leases, choose)
    dhcp = DhcpService(interface, responder, (67, 4011) if options.proxy else (67,))
    dhcp.open()
    say(by="server", ready=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(dhcp.run())
        group.create_task(serve_tftp(interface, tree.open_tftp, on_transfer=transferred))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interface", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--next-boot", type=Path, required=True)
    parser.add_argument("--http-port", type=int, default=80)
    parser.add_argument("--no-http", action="store_true")
    parser.add_argument("--http-breaks", default="", metavar="NAME", help="its GET ends in its middle")
    parser.add_argument("--proxy", action="store_true")
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
