"""Boots in few words, for tests: real packets through the real DHCP and TFTP cores into the real boot log."""

from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from dhcp_builders import MAC, NETWORK, SERVER, a_packet, an_arrival, choose_by_firmware, pxe_options
from inventories import an_inventory

from netboot.boot.contexts import BootKind, NextBoot
from netboot.bootlog.diagnosis import Diagnosis, diagnose
from netboot.bootlog.events import AgentStep, Span
from netboot.bootlog.timeline import BootRecord
from netboot.bootlog.words import lines_of
from netboot.dhcp.leases import GivenLeases, LeaseTable
from netboot.dhcp.proxy import DhcpProxy
from netboot.dhcp.reply import BootChooser, Reply
from netboot.dhcp.server import DhcpServer
from netboot.dhcp.subnets import Pool, ServerConfig, Subnet
from netboot.model import Ignored, Way
from netboot.persistence.boot_log import BootRepository
from netboot.persistence.database import open_database
from netboot.services.boot_log import BootRecorder
from netboot.services.tftp import TransferReport
from netboot.tftp.options import Limits, negotiate
from netboot.tftp.transfer import ReadTransfer
from netboot.wire.dhcp import DhcpPacket
from netboot.wire.dhcp_options import REQUESTED_ADDRESS, SERVER_IDENTIFIER, VENDOR_CLASS, MessageType
from netboot.wire.tftp import ErrorCode, build_ack, build_error

START_S = 1_700_000_000.0
OTHER_SERVER = IPv4Address("10.77.0.2")
GIVEN = IPv4Address("10.77.0.200")
"""By the other server."""
MACHINE_ID = 7


class Zeros:
    """A file."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        return bytes(min(length, self.size - offset))


class Scene:
    """One machine before an appliance, and the clock of both."""

    def __init__(
        self,
        directory: Path,
        *,
        proxy: bool = False,
        pool: int = 100,
        mac: str = MAC,
        choose: BootChooser = choose_by_firmware,
    ) -> None:
        self.now = START_S
        self.mac = mac
        self.peer = str(GIVEN)
        leases = LeaseTable()
        self.responder: DhcpProxy | DhcpServer
        if proxy:
            self.responder = DhcpProxy(SERVER, choose)
        else:
            self.responder = _server(leases, pool, choose)
        self.database = open_database(directory / "roomcast.db")
        self.repository = BootRepository(self.database)
        given = GivenLeases(leases, lambda address: not proxy, lambda: self.now - START_S)
        self.recorder = BootRecorder(self.database, self.repository, given, lambda: self.now)

    def close(self) -> None:
        self.database.close()

    def wait(self, seconds: float) -> None:
        self.now += seconds

    # DHCP

    def exchange(self, request: DhcpPacket, *, local_port: int = 67, source: str = "0.0.0.0") -> Reply | Ignored:
        """One packet, its answer, and what the log heard of it."""
        arrival = an_arrival(self.now - START_S, IPv4Address(source), local_port=local_port)
        outcome = self.responder.respond(request, arrival)
        assert isinstance(outcome, Reply | Ignored)
        self.recorder.exchanged(request, arrival, outcome)
        return outcome

    def packet(self, kind: MessageType, arch: int | None = 0, *more: Any, **fields: Any) -> DhcpPacket:
        options = pxe_options(arch) if arch is not None else []
        if arch in (15, 16, 19):
            options[0] = (VENDOR_CLASS, f"HTTPClient:Arch:{arch:05d}:UNDI:003016")
        return a_packet(kind, *options, *more, mac=self.mac, **fields)

    def discover(self, arch: int | None = 0, times: int = 1, gap_s: float = 4.0) -> Reply | Ignored:
        for number in range(times):
            if number:
                self.wait(gap_s)
            outcome = self.exchange(self.packet(MessageType.DISCOVER, arch))
        return outcome

    def request(self, address: IPv4Address, arch: int | None = 0, server: IPv4Address = SERVER) -> Reply | Ignored:
        chosen = ((SERVER_IDENTIFIER, server), (REQUESTED_ADDRESS, address))
        return self.exchange(self.packet(MessageType.REQUEST, arch, *chosen))

    def lease(self, arch: int | None = 0, *more: Any) -> IPv4Address:
        """DISCOVER, OFFER, REQUEST, ACK. `more`: further options."""
        offer = self.exchange(self.packet(MessageType.DISCOVER, arch, *more))
        assert isinstance(offer, Reply), offer
        self.wait(1.0)
        chosen = ((SERVER_IDENTIFIER, SERVER), (REQUESTED_ADDRESS, offer.packet.yiaddr))
        ack = self.exchange(self.packet(MessageType.REQUEST, arch, *more, *chosen))
        assert isinstance(ack, Reply) and ack.packet.message_type is MessageType.ACK
        self.peer = str(ack.packet.yiaddr)
        self.wait(0.1)
        return ack.packet.yiaddr

    # Files

    def tftp(
        self, path: str, size: int = 200_000, *, until: int | None = None, error: str = "", block: int = 1432
    ) -> None:
        """The machine fetches a file: to its end, or until it acknowledged so many blocks (-1: not even the options).

        Then it ends with this error, or is silent.
        """
        self.recorder.transfer_started(self.peer, path, size)
        terms = negotiate({"blksize": str(block), "tsize": "0"}, size, Limits(block_bytes=1468))
        peer, started_s = (self.peer, 2070), self.now
        transfer = ReadTransfer(peer, Zeros(size), terms, self.now)
        transfer.datagrams_to_send(self.now)
        for acknowledged in range((size // block + 1 if until is None else until) + 1):
            self.wait(0.001)
            transfer.receive_datagram(build_ack(acknowledged), peer, self.now)
            transfer.datagrams_to_send(self.now)
        if error:
            transfer.receive_datagram(build_error(ErrorCode.NOT_DEFINED, error), peer, self.now)
        while not transfer.is_over:
            deadline_s = transfer.next_timeout()
            assert deadline_s is not None
            self.now = max(self.now, deadline_s)
            transfer.handle_timeout(self.now)
            transfer.datagrams_to_send(self.now)
        (outcome,) = transfer.events()
        acknowledged, seconds = transfer.blocks_acknowledged, self.now - started_s
        self.recorder.transferred(
            TransferReport(self.peer, path, size, seconds, outcome, transfer.block_bytes, acknowledged)
        )

    def tftp_refused(self, path: str) -> None:
        self.recorder.transferred(TransferReport(self.peer, path, -1, 0.01, Ignored(f"no such file: {path}")))

    def http(
        self, path: str, size: int = 1_000_000, *, span: Span | None = None, sent: int | None = None, why: str = ""
    ) -> None:
        span = span or Span(0, size)
        self.recorder.http_started(self.peer, path, size, span)
        self.wait(0.5)
        asked = span.end - span.first
        self.recorder.http_ended(self.peer, path, size, span, asked if sent is None else sent, 0.5, why)

    # GRUB and the agent

    def told(self, kind: BootKind, way: Way | None = Way.CHAINLOAD) -> None:
        reason = "no task" if kind is BootKind.LOCAL else "deploy golden version 3"
        self.recorder.configured(self.peer, self.mac, NextBoot(kind, "pc-01", reason, way=way))

    def grub(self, kind: BootKind = BootKind.AGENT) -> None:
        """From the boot program to its configuration, on BIOS."""
        self.tftp("bios/core.0")
        self.told(kind)
        self.tftp(f"/grub/grub.cfg-01-{self.mac.replace(':', '-')}", 900)

    def agent_loaded(self) -> None:
        self.http("agent/vmlinuz")
        self.http("agent/initrd.img")

    def registered(self, **facts: Any) -> None:
        self.recorder.registered(an_inventory(self.mac, **facts), self.peer, MACHINE_ID, "pc-01", False)

    def agent(self, step: AgentStep, task: str = "deploy golden version 3", why: str = "") -> None:
        self.recorder.agent(MACHINE_ID, step, task, why)

    # What the log says

    def boots(self) -> list[BootRecord]:
        return self.recorder.boots(self.mac)

    def diagnoses(self) -> list[Diagnosis]:
        *earlier, last = self.boots()
        return diagnose(last, self.now, earlier)

    def texts(self) -> list[str]:
        return [f"{line.label}: {line.text}" for line in lines_of(self.boots()[-1])]


def _server(leases: LeaseTable, pool: int, choose: BootChooser) -> DhcpServer:
    subnet = Subnet(NETWORK, (Pool(NETWORK[100], NETWORK[99 + pool]),), 3600)
    return DhcpServer(ServerConfig(SERVER, subnet, probe=False), leases, choose)
