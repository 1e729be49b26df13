"""One emulated machine: QEMU with real firmware (firmware.py tells which there are).

It boots from the network first and from its disk second, at power-on and at each reset, as a lab's machines are set up.
Its serial console goes to a file. No acceleration is wanted: everything runs by translation (TCG).
"""

import re
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from classroom.errors import LabError
from classroom.firmware import Firmware
from classroom.processes import BackgroundProcess, last_lines
from classroom.qmp import QmpClient
from imager.programs import run
from imager.wire.messages import FirmwareKind

POLL_S = 0.1
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|c)")


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made of."""

    name: str
    firmware: Firmware
    mac: str
    memory_mib: int = 1024
    disk_bytes: int = 2 << 30
    disk_bus: str = "virtio"
    """virtio or sata."""
    screen: bool = False
    """With a graphics card, for screenshots; the serial line then lacks what SeaBIOS says."""

    @property
    def kind(self) -> FirmwareKind:
        return FirmwareKind.UEFI if self.firmware.is_uefi else FirmwareKind.BIOS

    @property
    def system_uuid(self) -> str:
        """As its firmware tells it (SMBIOS, DHCP option 97)."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.mac))

    @property
    def disk_serial(self) -> str:
        return f"LAB-{self.name.upper()}"[:20]


@dataclass(frozen=True, slots=True)
class MachineFiles:
    """Where the files of one machine are, all in a directory of its own."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.raw"

    @property
    def firmware_variables(self) -> Path:
        return self.directory / "vars.fd"

    @property
    def control(self) -> Path:
        return self.directory / "qmp"


def qemu_command(spec: MachineSpec, files: MachineFiles, serial: Path, tap: str | None) -> list[str]:
    """The command line of QEMU. `tap`: interface of its network card; None: no card, so it boots its disk."""
    firmware = spec.firmware
    board = firmware.machine
    if not spec.screen and firmware.console:
        board += f",{firmware.console}"
    command = [firmware.program, "-name", spec.name, "-nodefaults", "-no-user-config"]
    command += [
        "-uuid",
        spec.system_uuid,
        "-machine",
        board,
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        firmware.cpu,
        "-m",
        str(spec.memory_mib),
        *firmware.options,
    ]
    command += ["-display", "none", "-chardev", f"file,id=serial,path={serial},append=on", "-serial", "chardev:serial"]
    command += ["-qmp", f"unix:{files.control},server=on,wait=off", "-device", "virtio-rng-pci"]
    if spec.screen:
        command += ["-vga", "std"]
    if firmware.is_uefi:
        command += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={firmware.code}"]
        command += ["-drive", f"if=pflash,format=raw,unit=1,file={files.firmware_variables}"]
    command += ["-drive", f"if=none,id=disk,format=raw,cache=unsafe,discard=unmap,file={files.disk}"]
    if spec.disk_bus == "sata":
        if not firmware.is_uefi:
            command += ["-device", "ahci,id=ide"]  # q35 has one
        command += ["-device", f"ide-hd,bus=ide.0,drive=disk,serial={spec.disk_serial},bootindex=1"]
    else:
        command += ["-device", f"virtio-blk-pci,drive=disk,serial={spec.disk_serial},bootindex=1"]
    if tap is not None:
        rom = "" if firmware.rom is None else f",romfile={firmware.rom}"
        command += ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
        command += ["-device", f"{firmware.nic},netdev=net,mac={spec.mac},bootindex=0{rom}"]
    return command


class SerialLog:
    """What a machine said on its serial line, without terminal control."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self) -> str:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return ""
        return _ESCAPE_SEQUENCES.sub("", data.decode(errors="replace")).replace("\r", "")

    def search(self, pattern: str, start: int = 0) -> re.Match[str] | None:
        """The first match of `pattern` (with ^ and $ at each line) at or after character `start`."""
        return re.compile(pattern, re.MULTILINE).search(self.text(), start)


class Machine:
    """A machine; a context manager that is powered on inside. Its files stay in its directory until the run's end."""

    def __init__(
        self, spec: MachineSpec, *, directory: Path, logs: Path, namespace: str | None = None, tap: str | None = None
    ) -> None:
        """`namespace` and `tap`: where its network card is plugged in."""
        self.spec = spec
        self.files = MachineFiles(directory)
        self.serial = SerialLog(logs / f"{spec.name}.serial.log")
        self.powered_on_s = 0.0
        """time.monotonic() of the last power-on."""
        self._namespace = namespace
        self._tap = tap
        self._log = logs / f"{spec.name}.qemu.log"
        self._process: BackgroundProcess | None = None

    def prepare(self, disk: Path | None = None) -> None:
        """Make its files: a blank disk, or a copy of `disk`; empty firmware variables."""
        self.files.directory.mkdir(parents=True, exist_ok=True)
        if disk is not None:
            run(["cp", "--sparse=always", "--reflink=auto", disk, self.files.disk])
        with self.files.disk.open("ab") as file:
            file.truncate(max(self.spec.disk_bytes, file.tell()))
        if self.spec.firmware.variables is not None:
            shutil.copyfile(self.spec.firmware.variables, self.files.firmware_variables)

    def power_on(self) -> None:
        command = qemu_command(self.spec, self.files, self.serial.path, self._tap)
        self.files.control.unlink(missing_ok=True)
        self._process = BackgroundProcess(self.spec.name, command, log=self._log, namespace=self._namespace)
        self._process.start()
        self.powered_on_s = time.monotonic()

    def power_off(self) -> None:
        """Pull the plug."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def reset(self) -> None:
        """Press the reset button."""
        with QmpClient(self.files.control) as qmp:
            qmp.execute("system_reset")

    def save_screen(self, picture: Path) -> None:
        """Write what the screen shows as a PNG file. Wants a machine with a screen."""
        with QmpClient(self.files.control) as qmp:
            qmp.execute("screendump", filename=str(picture), format="png")

    def check(self) -> None:
        """Raise LabError when QEMU has ended though nobody powered the machine off."""
        if self._process is not None:
            self._process.check()

    def wait_for(self, pattern: str, timeout_s: float, start: int = 0) -> re.Match[str]:
        """Wait until the serial line matches `pattern`. Raises LabError with its last lines after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while (found := self.serial.search(pattern, start)) is None:
            self.check()
            if time.monotonic() > deadline:
                said = last_lines(self.serial.path)
                raise LabError(f"{self.spec.name} has not said `{pattern}` within {timeout_s:.0f} s", said)
            time.sleep(POLL_S)
        return found

    def __enter__(self) -> Self:
        self.prepare()
        self.power_on()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.power_off()
