"""What emulated machines can be: a board with real firmware, and how that boots from the network. Values only."""

from dataclasses import dataclass, replace
from pathlib import Path

_OVMF = Path("/usr/share/OVMF")
_AAVMF = Path("/usr/share/AAVMF")


@dataclass(frozen=True, slots=True)
class Firmware:
    """A machine's board and firmware, as QEMU takes them."""

    name: str
    words: str
    """For a table."""
    machine: str
    options: tuple[str, ...] = ()
    """Further ones of QEMU."""
    code: Path | None = None
    """None: what the board comes with, SeaBIOS."""
    variables: Path | None = None
    """As they are when the machine is new; each machine writes to its own copy."""
    rom: str | None = None
    """Of the network card; None: QEMU's own, which is iPXE; empty: none, so UEFI uses its own driver."""
    nic: str = "virtio-net-pci"
    program: str = "qemu-system-x86_64"
    cpu: str = "qemu64"
    console: str = "graphics=off"
    """Of the board: what makes SeaBIOS and its iPXE speak on the serial line; empty: nothing has to."""
    chained: Path | None = None
    """An iPXE that the appliance hands out to this firmware, which then starts what iPXE is told."""

    @property
    def is_uefi(self) -> bool:
        return self.code is not None

    @property
    def is_installed(self) -> bool:
        files = (Path("/usr/bin", self.program), self.code, self.chained)
        return all(file is None or file.exists() for file in files)


_NO_PXE = tuple(word for n in (4, 6) for word in ("-fw_cfg", f"name=opt/org.tianocore/IPv{n}PXESupport,string=n"))
_NO_PXE_V6 = _NO_PXE[2:]
"""Where the first program is refused, a minute of waiting for an IPv6 server would follow."""
_SECURE = ("-global", "driver=cfi.pflash01,property=secure,value=on")
_CODE, _VARIABLES = _OVMF / "OVMF_CODE_4M.fd", _OVMF / "OVMF_VARS_4M.fd"
_SECURE_CODE, _ENROLLED = _OVMF / "OVMF_CODE_4M.secboot.fd", _OVMF / "OVMF_VARS_4M.ms.fd"

SEABIOS = Firmware("seabios", "SeaBIOS, iPXE ROM", "pc")
SEABIOS_E1000 = Firmware("seabios-e1000", "SeaBIOS, iPXE ROM, e1000", "pc", nic="e1000")
SEABIOS_CHAIN = replace(
    SEABIOS, name="seabios-chain", words="SeaBIOS, plain ROM, chained iPXE", chained=Path("/usr/lib/ipxe/undionly.kpxe")
)
OVMF = Firmware("ovmf", "OVMF, PXE", "q35", (), _CODE, _VARIABLES, rom="")
OVMF_HTTP = Firmware("ovmf-http", "OVMF, HTTP boot", "q35", _NO_PXE, _CODE, _VARIABLES, rom="")
OVMF_SECURE = Firmware(
    "ovmf-secure",
    "OVMF, Secure Boot, PXE",
    "q35,smm=on",
    (*_SECURE, *_NO_PXE_V6),
    _SECURE_CODE,
    _ENROLLED,
    rom="",
)
OVMF_SECURE_DEFAULT = replace(
    OVMF_SECURE, name="ovmf-secure-default", words="OVMF, Secure Boot, default boot order", options=_SECURE
)
OVMF_HTTP_SECURE = Firmware(
    "ovmf-http-secure",
    "OVMF, Secure Boot, HTTP boot",
    "q35,smm=on",
    (*_SECURE, *_NO_PXE),
    _SECURE_CODE,
    _ENROLLED,
    rom="",
)
OVMF_IPXE = Firmware("ovmf-ipxe", "OVMF, iPXE ROM", "q35", (), _CODE, _VARIABLES)
OVMF_CHAIN = replace(
    OVMF, name="ovmf-chain", words="OVMF, PXE, chained iPXE", chained=Path("/usr/lib/ipxe/snponly.efi")
)
OVMF_IA32 = Firmware(
    "ovmf-ia32",
    "OVMF IA32, PXE",
    "q35,smm=on",
    _SECURE,
    _OVMF / "OVMF32_CODE_4M.secboot.fd",
    _OVMF / "OVMF32_VARS_4M.fd",
    rom="",
)
AAVMF = Firmware(
    "aavmf",
    "AAVMF (ARM64), PXE",
    "virt",
    (),
    _AAVMF / "AAVMF_CODE.fd",
    _AAVMF / "AAVMF_VARS.fd",
    rom="",
    program="qemu-system-aarch64",
    cpu="cortex-a57",
    console="",
)
