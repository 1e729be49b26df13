"""`vm-lab/matrix`: which firmware reaches the agent, and its own disk without a task, beside which DHCP server.

Real firmware, the real appliance and agent: each machine is unknown at first, so it boots the agent and registers; then
it is reset, has no task, and is to start its own disk.
"""

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from classroom import firmware, other_dhcp
from classroom.boot_disks import ARM64, IA32, LOCAL_SAYS, X64, SignedChain, make_bios_disk, make_uefi_disk
from classroom.builds import ROOMCAST, agent_files
from classroom.errors import LabError
from classroom.firmware import Firmware
from classroom.machine import Machine, MachineSpec
from classroom.network import SECOND_INTERFACE, SERVER_ADDRESS, SERVER_INTERFACE, Classroom
from classroom.processes import BackgroundProcess, last_lines, run_program
from classroom.run import Run
from imager.errors import ImagerError
from netboot.bootlog.events import FetchState, Told
from netboot.cli.client import ApplianceClient
from netboot.config.settings import Mode
from netboot.errors import NetbootError, UnknownError

AT_ONCE = 2
"""Emulated machines: each keeps a core busy."""
SERVE_TIMEOUT_S = 60.0
AGENT_TIMEOUT_S = 300.0
LOCAL_TIMEOUT_S = 180.0
POLL_S = 0.25
REFUSED = "secure-boot-refused"
"""As the boot log names it."""

Say = Callable[[str], None]


class Beside(StrEnum):
    """How the machines get their addresses."""

    SERVER = "server"
    """From the appliance."""
    SECOND = "second-interface"
    """From the appliance, at its second interface."""
    AUTO = "auto"
    """From the appliance, which found no other server."""
    DNSMASQ = "dnsmasq"
    """From dnsmasq; the appliance is a proxy beside it."""
    KEA = "kea"
    """From Kea; the appliance is a proxy beside it."""
    AUTO_DNSMASQ = "auto-dnsmasq"
    """From dnsmasq, which the appliance found."""
    SNIPPET = "dnsmasq-snippet"
    """From dnsmasq, which tells the boot file too, as `roomcast config snippet` says; the appliance is off."""


@dataclass(frozen=True, slots=True)
class _Manner:
    """How the appliance is started, and what is beside it."""

    heading: str
    """Of its column."""
    mode: Mode
    role: Mode
    """That it has then, on every interface."""


_MANNERS = {
    Beside.SERVER: _Manner("server", Mode.SERVER, Mode.SERVER),
    Beside.SECOND: _Manner("server, 2nd interface", Mode.SERVER, Mode.SERVER),
    Beside.AUTO: _Manner("auto, alone", Mode.AUTO, Mode.SERVER),
    Beside.DNSMASQ: _Manner("proxy beside dnsmasq", Mode.PROXY, Mode.PROXY),
    Beside.KEA: _Manner("proxy beside Kea", Mode.PROXY, Mode.PROXY),
    Beside.AUTO_DNSMASQ: _Manner("auto beside dnsmasq", Mode.AUTO, Mode.PROXY),
    Beside.SNIPPET: _Manner("off, dnsmasq with our snippet", Mode.OFF, Mode.OFF),
}
FIRMWARE = (
    firmware.SEABIOS,
    firmware.SEABIOS_E1000,
    firmware.SEABIOS_CHAIN,
    firmware.OVMF,
    firmware.OVMF_HTTP,
    firmware.OVMF_SECURE,
    firmware.OVMF_SECURE_DEFAULT,
    firmware.OVMF_HTTP_SECURE,
    firmware.OVMF_IPXE,
    firmware.OVMF_CHAIN,
    firmware.OVMF_IA32,
    firmware.AAVMF,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One machine's way."""

    firmware: Firmware
    beside: Beside
    agent_s: float | None = None
    """From power-on to its registration; None: it did not come so far."""
    local_s: float | None = None
    """From the reset to its own disk."""
    diagnoses: tuple[str, ...] = ()
    """What the boot log said was wrong on its way to the agent, in order."""
    why: str = ""
    """It went no further."""

    @property
    def is_good(self) -> bool:
        wants_agent = self.firmware is not firmware.AAVMF  # there is none for ARM64
        arrived = self.local_s is not None and (self.agent_s is not None or not wants_agent)
        return arrived and (REFUSED in self.diagnoses) == self.is_refused_first

    @property
    def is_refused_first(self) -> bool:
        """Secure Boot refuses the program that a proxy tells it, the log says so, and it goes on by UEFI HTTP boot."""
        by_pxe = (firmware.OVMF_SECURE, firmware.OVMF_SECURE_DEFAULT)
        return self.firmware in by_pxe and self.beside in (Beside.DNSMASQ, Beside.KEA)


class Room:
    """One appliance in its classroom. See `room`."""

    def __init__(self, run: Run, classroom: Classroom, appliance: BackgroundProcess, beside: Beside) -> None:
        self.run = run
        self.beside = beside
        self._classroom = classroom
        self._appliance = appliance
        self._ports = threading.Lock()
        self._machines = 0

    @property
    def socket(self) -> Path:
        return self.run.directory / "api.sock"

    def try_machine(self, firmware: Firmware, say: Say) -> Row:
        """Boot a new machine twice: unknown, then without a task."""
        with self._ports:
            self._machines += 1
            mac = f"52:54:00:0b:07:{self._machines:02x}"
            port = self._classroom.add_port()
        if firmware.chained is not None and not firmware.is_uefi:
            self._classroom.hide_rom(port)
        spec = MachineSpec(firmware.name, firmware, mac, disk_bytes=0)
        directory = self.run.directory / firmware.name
        directory.mkdir()
        machine = Machine(spec, directory=directory, logs=self.run.logs, namespace=self._classroom.room, tap=port.tap)
        machine.prepare(_disk(firmware, directory))
        agent_s = local_s = None
        why = ""
        diagnoses: list[str] = []
        try:
            machine.power_on()
            agent_s = self._registered(machine, diagnoses)
            if agent_s is not None:
                if firmware.chained is not None:
                    self._has_chained(mac, firmware.chained)
                say(f"{firmware.words}: agent registered after {agent_s:.1f} s")
                start = len(machine.serial.text())
                machine.reset()
                began = time.monotonic()
                machine.wait_for(LOCAL_SAYS, LOCAL_TIMEOUT_S, start)
                seconds = time.monotonic() - began
                self._was_told_to_start_its_disk(mac)
                local_s = seconds
            elif machine.serial.search(LOCAL_SAYS):
                seconds = time.monotonic() - machine.powered_on_s
                self._was_told_to_start_its_disk(mac)
                local_s = seconds
            if local_s is not None:
                say(f"{firmware.words}: its own disk after {local_s:.1f} s")
        except LabError as error:
            why = str(error).partition("\n")[0]
        finally:
            machine.power_off()
        if local_s is None:
            why = why or f"no agent registered within {AGENT_TIMEOUT_S:.0f} s"
            say(f"{firmware.words}: {why}\n{last_lines(machine.serial.path, 12)}")
        return Row(firmware, self.beside, agent_s, local_s, tuple(diagnoses), why)

    def _was_told_to_start_its_disk(self, mac: str) -> None:
        """LabError: a machine whose network boot broke starts its disk too, and proves nothing."""
        if not any(entry.get("told") == Told.LOCAL for entry in self._entries(mac)):
            raise LabError(f"{mac} started its disk without having been told to")

    def _has_chained(self, mac: str, program: Path) -> None:
        """LabError unless it fetched this iPXE, which then asked DHCP and was told a program of ours."""
        entries = iter(self._entries(mac))
        fetched = any(e.get("path", "").endswith(f"/{program.name}") and e["state"] == FetchState.DONE for e in entries)
        if not fetched or not any(e.get("user_class") == "iPXE" and e.get("boot_file") for e in entries):
            raise LabError(f"{mac} came to the agent without {program.name}")

    def _entries(self, mac: str) -> list[dict[str, Any]]:
        with ApplianceClient(self.socket) as appliance:
            boots = appliance.get(f"/api/v1/boot-log/machines/{mac}")
        return [entry for boot in boots for entry in boot["entries"]]

    def has_role(self) -> bool:
        """Whether the appliance is on every interface what it is to be, by now."""
        with ApplianceClient(self.socket) as appliance:
            roles = {each["role"] for each in appliance.get("/api/v1/status")["interfaces"]}
        return roles == {_MANNERS[self.beside].role}

    def _registered(self, machine: Machine, diagnoses: list[str]) -> float | None:
        """Seconds from power-on; None: not within its time, or it has started its disk without.

        Notes in `diagnoses` what the boot log says is wrong meanwhile.
        """
        while (seconds := time.monotonic() - machine.powered_on_s) < AGENT_TIMEOUT_S:
            machine.check()
            self._appliance.check()
            with ApplianceClient(self.socket) as appliance:
                known = {m["inventory"]["boot_mac"] for m in appliance.get("/api/v1/machines")}
                for code in _wrong(appliance, machine.spec.mac):
                    if code not in diagnoses:
                        diagnoses.append(code)
            if machine.spec.mac in known:
                return seconds
            if machine.serial.search(LOCAL_SAYS):
                return None
            time.sleep(POLL_S)
        return None


@contextlib.contextmanager
def room(run: Run, beside: Beside, chained: Mapping[str, Path] | None = None) -> Iterator[Room]:
    """An appliance that serves a classroom, with another DHCP server beside it or without.

    `chained`: programs of its setting boot-programs.
    """
    data = run.directory / "data"
    agent_files(run.cache, data / "agent", temporary=run.directory / "tmp", log=run.logs / "agent-build.log")
    run_program([ROOMCAST, "boot-programs", "--fetch", "ia32", "--fetch", "arm64", "--data", data])
    with contextlib.ExitStack() as stack:
        classroom = stack.enter_context(Classroom(run))
        command: list[str | Path] = [ROOMCAST, "serve", "--interface", SERVER_INTERFACE, "--data", data]
        command += ["--socket", run.directory / "api.sock"]
        command += ["--mode", _MANNERS[beside].mode]
        if beside is Beside.SECOND:
            classroom.add_second_network()
            command += ["--interface", SECOND_INTERFACE]
        elif beside in (Beside.DNSMASQ, Beside.KEA, Beside.AUTO_DNSMASQ, Beside.SNIPPET):
            stack.enter_context(_other_server(run, classroom, beside))
        if chained:
            settings = run.directory / "roomcast.toml"
            programs = [f'{name} = "{file}"' for name, file in chained.items()]
            settings.write_text("\n".join(["[boot-programs]", *programs, ""]))
            command += ["--config", settings]
        log = run.logs / "serve.log"
        appliance = stack.enter_context(
            BackgroundProcess("roomcast serve", command, log=log, namespace=classroom.server)
        )
        made = Room(run, classroom, appliance, beside)
        deadline = time.monotonic() + SERVE_TIMEOUT_S
        while not _answers(made.socket):
            appliance.check()
            if time.monotonic() > deadline:
                raise LabError("the appliance does not answer", last_lines(log))
            time.sleep(POLL_S)
        if not made.has_role():
            raise LabError(f"the appliance is not {_MANNERS[beside].role} {beside}", last_lines(log))
        yield made
        if not made.has_role():
            raise LabError(f"the appliance did not stay {_MANNERS[beside].role} {beside}", last_lines(log))


def _other_server(run: Run, classroom: Classroom, beside: Beside) -> BackgroundProcess:
    if beside is Beside.KEA:
        return other_dhcp.kea(classroom, run.directory, run.logs)
    options = []
    if beside is Beside.SNIPPET:
        snippet = run.directory / "snippet.conf"
        snippet.write_text(run_program([ROOMCAST, "config", "snippet", "dnsmasq", "--server", SERVER_ADDRESS]))
        options = [f"--conf-file={snippet}"]
    return other_dhcp.dnsmasq(classroom, run.directory, run.logs, options)


def _wrong(appliance: ApplianceClient, mac: str) -> list[str]:
    """The errors that the boot log tells of a machine now."""
    try:
        boots = appliance.get(f"/api/v1/boot-log/machines/{mac}")
    except UnknownError:
        return []  # not heard yet
    return [found["code"] for boot in boots for found in boot["diagnoses"] if found["severity"] == "error"]


def _answers(socket: Path) -> bool:
    try:
        with ApplianceClient(socket) as appliance:
            return bool(appliance.get("/healthz"))
    except NetbootError:
        return False


def _disk(firmware_: Firmware, directory: Path) -> Path:
    if not firmware_.is_uefi:
        return make_bios_disk(directory / "local.raw")
    chains: dict[str, SignedChain] = {firmware.OVMF_IA32.name: IA32, firmware.AAVMF.name: ARM64}
    chain = chains.get(firmware_.name, X64)
    packages = directory.parent / "data" / "boot-packages" / chain.letters
    return make_uefi_disk(directory / "local.raw", chain=chain, root=packages if chain is not X64 else Path("/"))


def ways(firmware_: Firmware) -> tuple[Beside, ...]:
    """Beside which DHCP servers this firmware is tried."""
    # Snippets tell PXE clients of x64 alone: a volume of UEFI HTTP boot is a machine's own.
    some = {
        Beside.SNIPPET: (firmware.SEABIOS, firmware.OVMF, firmware.OVMF_SECURE, firmware.OVMF_IPXE),
        Beside.AUTO: (firmware.SEABIOS, firmware.OVMF),
        Beside.AUTO_DNSMASQ: (firmware.SEABIOS, firmware.OVMF),
        Beside.SECOND: (firmware.SEABIOS, firmware.OVMF, firmware.OVMF_HTTP),
    }
    if firmware_ is firmware.OVMF_SECURE_DEFAULT:  # differs where its first program is refused
        return (Beside.DNSMASQ,)
    return tuple(mode for mode in Beside if firmware_ in some.get(mode, FIRMWARE))


def try_all(beside: Beside, chosen: Sequence[Firmware], say: Say) -> list[Row]:
    """Every firmware beside one DHCP server, `AT_ONCE` at a time. Those with an iPXE to chain have their own room."""
    chosen = [one for one in chosen if beside in ways(one)]
    chaining = [one for one in chosen if one.chained is not None]
    rows: list[Row] = []
    for machines in ([one for one in chosen if one.chained is None], chaining):
        if not machines:
            continue
        chained = {"uefi-x64" if one.is_uefi else "bios": one.chained for one in machines if one.chained is not None}
        with Run() as run:
            say(f"{beside}: logs in {run.logs}")
            with room(run, beside, chained) as made, ThreadPoolExecutor(AT_ONCE) as workers:
                rows += workers.map(lambda one, made=made: made.try_machine(one, say), machines)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """0 only when every machine came to the agent and to its disk."""
    names = [one.name for one in FIRMWARE]
    parser = argparse.ArgumentParser(prog="vm-lab/matrix", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join([*names, *Beside])}")
    options = parser.parse_args(arguments)
    only = set(options.only or ())
    if unknown := only - {*names, *Beside}:
        parser.error(f"no such firmware or mode: {', '.join(sorted(unknown))}")
    chosen = [one for one in FIRMWARE if one.name in only or not only & set(names)]
    modes = [mode for mode in Beside if mode in only or not only & set(Beside)]
    console = Console(highlight=False)
    began = time.monotonic()

    def say(line: str) -> None:
        console.print(f"{time.monotonic() - began:7.1f} s  {line}", markup=False, soft_wrap=True)

    if missing := [one.name for one in chosen if not one.is_installed]:
        parser.error(f"QEMU or firmware is not installed: run vm-lab/install, or leave out {', '.join(missing)}")
    rows: list[Row] = []
    try:
        for mode in modes:
            rows += try_all(mode, chosen, say)
    except (LabError, NetbootError, ImagerError) as error:
        console.print(f"vm-lab/matrix: {error}", markup=False)
        return 1
    console.print(table_of(rows))
    return 0 if all(row.is_good for row in rows) else 1


def table_of(rows: Sequence[Row]) -> Table:
    """Firmware x mode: seconds to the agent, seconds to the disk."""
    table = Table(title="seconds from power-on to the agent / from reset to the own disk", title_justify="left")
    modes = list(dict.fromkeys(row.beside for row in rows))
    table.add_column("firmware")
    for mode in modes:
        table.add_column(_MANNERS[mode].heading)
    for one in dict.fromkeys(row.firmware for row in rows):
        cells = {row.beside: _cell(row) for row in rows if row.firmware is one}
        table.add_row(one.words, *(cells.get(mode, "") for mode in modes))
    return table


def _cell(row: Row) -> str:
    agent = "-" if row.agent_s is None else f"{row.agent_s:.1f}"
    local = "-" if row.local_s is None else f"{row.local_s:.1f}"
    cell = f"{agent} / {local}"
    if row.diagnoses:
        cell += f"  after {', '.join(row.diagnoses)}"
    return cell if row.is_good else f"{cell}  FAILED"


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("vm-lab/matrix: run it as root: sudo vm-lab/matrix", file=sys.stderr)
        sys.exit(1)
    sys.exit(main())
