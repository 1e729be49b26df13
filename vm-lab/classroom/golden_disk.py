"""The golden disk: a minimal Debian that boots from BIOS and UEFI and says on its serial line who it became.

GPT with a BIOS boot partition, an EFI system partition (Debian's signed shim and GRUB) and an ext4 root, put together
in a file without loop devices and mounts. Its packages come by the machine's own apt configuration. On every boot it
prints one line: `ROOMCAST-PROOF hostname=... machine-id=... firmware=... root=... host-key=...`.
"""

import argparse
import fcntl
import hashlib
import os
import shutil
import struct
import sys
from pathlib import Path

from classroom.errors import LabError
from classroom.processes import run_contained
from imager.programs import run

HOSTNAME = "golden"
"""Hostname in the image: a machine that prints it has not been given its own."""
MACHINE_ID = "0123456789abcdef0123456789abcdef"
"""Machine-id in the image."""
DISK_BYTES = 1536 << 20

_SECTOR_BYTES = 512
_SECTORS_PER_MIB = (1 << 20) // _SECTOR_BYTES
_BIOS_FIRST = 40
_ESP_FIRST = 1 * _SECTORS_PER_MIB
_ESP_SECTORS = 64 * _SECTORS_PER_MIB
"""FAT32 wants at least 65,525 clusters: 64 MiB at one sector each."""
_ROOT_FIRST = _ESP_FIRST + _ESP_SECTORS
_ROOT_UUID = "5c1f6d0e-3a44-4f0e-9d57-6b2f0a6e8f10"
_SUITE = "bookworm"
_PACKAGES = ("systemd-sysv", "linux-image-amd64", "openssh-server", "zstd")
_LEFT_OUT = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/zoneinfo/*",
    "/lib/modules/*/kernel/sound/*",
    "/lib/modules/*/kernel/drivers/gpu/*",
    "/lib/modules/*/kernel/drivers/media/*",
    "/lib/modules/*/kernel/drivers/infiniband/*",
    "/lib/modules/*/kernel/drivers/iio/*",
    "/lib/modules/*/kernel/drivers/staging/*",
    "/lib/modules/*/kernel/drivers/net/wireless/*",
)
_INITRAMFS_MODULES = "virtio_pci virtio_blk virtio_scsi ahci ata_piix nvme sd_mod ext4"
_MASKED_UNITS = (
    # Each costs an emulated processor seconds at boot and nothing here needs it.
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "getty-static.service",
    "serial-getty@ttyS0.service",
    "ssh.service",
    "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-logind.service",
    "systemd-pstore.service",
    "systemd-update-utmp.service",
    "systemd-update-utmp-runlevel.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
)
_PROOF_SCRIPT = """#!/bin/sh
# Says on the serial line, in one write, what this system believes to be.
key=$(cut -c 1-96 /etc/ssh/ssh_host_ed25519_key.pub 2>/dev/null | cut -d ' ' -f 2)
firmware=bios
[ ! -d /sys/firmware/efi ] || firmware=uefi
while read -r device point rest; do
    [ "$point" != / ] || root=$device
done </proc/mounts
printf '\\nROOMCAST-PROOF hostname=%s machine-id=%s firmware=%s root=%s host-key=%s\\n' \\
    "$(cat /proc/sys/kernel/hostname)" "$(cat /etc/machine-id)" "$firmware" "$root" "${key:-none}" >/dev/ttyS0
"""
_PROOF_UNIT = """[Unit]
Description=Say on the serial line who this system is
After=local-fs.target systemd-hostnamed.service

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/roomcast-proof

[Install]
WantedBy=multi-user.target
"""
_GRUB_MODULES = ["biosdisk", "part_gpt", "ext2", "search", "search_fs_uuid", "normal", "configfile", "linux", "echo"]
_GRUB_MODULES += ["serial", "terminal"]
_GRUB_START = f"search --no-floppy --fs-uuid --set=root {_ROOT_UUID}\nset prefix=($root)/boot/grub\n"
_GRUB_MENU = f"""serial --unit=0 --speed=115200
terminal_output serial
echo "GRUB of the local disk"
linux /vmlinuz root=UUID={_ROOT_UUID} ro quiet fsck.mode=skip console=ttyS0
initrd /initrd.img
boot
"""


def golden_disk(cache: Path, *, temporary: Path, log: Path) -> Path:
    """The golden disk as a raw file, from `cache` when this recipe has been built before. Takes a minute otherwise.

    Raises LabError. Interrupted, it leaves files below `temporary` only.
    """
    cache.mkdir(parents=True, exist_ok=True)
    disk = cache / f"golden-{_recipe_hash()}.raw"
    with (cache / "golden.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not disk.exists():
            work = temporary / "golden"
            work.mkdir(parents=True)
            build_command: list[str | Path] = [sys.executable, "-m", "classroom.golden_disk", work / "disk", work]
            run_contained(build_command, log=log, temporary=work)
            for old in cache.glob("golden-*.raw"):
                old.unlink()
            (work / "disk").rename(disk)
            shutil.rmtree(work)
    return disk


def _recipe_hash() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]


def apt_sources() -> list[Path]:
    """The files of this machine's apt configuration that name a source of the suite."""
    directory = Path("/etc/apt")
    files = [directory / "sources.list", *sorted((directory / "sources.list.d").glob("*"))]
    found = [
        file
        for file in files
        if file.suffix in (".list", ".sources") and file.is_file() and _SUITE in file.read_text().split()
    ]
    if not found:
        raise LabError(f"no source of Debian {_SUITE} in /etc/apt: the golden disk is made of its packages")
    return found


def build(disk: Path, work: Path) -> None:
    """Make the golden disk as the new file `disk`; `work` is a directory for the tree."""
    root = work / "root"
    _make_root(root, work)
    _make_disk(disk, root, work)


def _make_root(root: Path, work: Path) -> None:
    early = work / "initramfs-tools"
    (early / "conf.d").mkdir(parents=True)
    (early / "hooks").mkdir()
    (early / "conf.d" / "lab").write_text("MODULES=list\nRESUME=none\n")
    hook = early / "hooks" / "lab"
    hook.write_text(
        f'#!/bin/sh\n[ "$1" != prereqs ] || exit 0\n. /usr/share/initramfs-tools/hook-functions\n'
        f"for module in {_INITRAMFS_MODULES}; do manual_add_modules $module; force_load $module; done\n"
    )
    hook.chmod(0o755)
    root.mkdir()
    command: list[str | Path] = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    command += ['--aptopt=Acquire::Languages "none"', f"--essential-hook=copy-in {early} /etc"]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    run([*command, _SUITE, root, *apt_sources()])

    etc = root / "etc"
    (etc / "hostname").write_text(f"{HOSTNAME}\n")
    (etc / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {HOSTNAME}\n")
    (etc / "machine-id").write_text(f"{MACHINE_ID}\n")
    (etc / "fstab").write_text(f"UUID={_ROOT_UUID} / ext4 errors=remount-ro 0 1\n")
    for key in (etc / "ssh").glob("ssh_host_*"):
        key.unlink()
    units = etc / "systemd" / "system"
    for unit in _MASKED_UNITS:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (units / "roomcast-proof.service").write_text(_PROOF_UNIT)
    (units / "multi-user.target.wants" / "roomcast-proof.service").symlink_to("../roomcast-proof.service")
    script = root / "usr/local/sbin/roomcast-proof"
    script.write_text(_PROOF_SCRIPT)
    script.chmod(0o755)
    (root / "boot/grub").mkdir()
    (root / "boot/grub/grub.cfg").write_text(_GRUB_MENU)


def _make_disk(disk: Path, root: Path, work: Path) -> None:
    last = DISK_BYTES // _SECTOR_BYTES - 34
    with disk.open("xb") as file:
        file.truncate(DISK_BYTES)
    table = (
        "label: gpt\nfirst-lba: 34\n"
        f"start={_BIOS_FIRST},size={_ESP_FIRST - _BIOS_FIRST},type=21686148-6449-6E6F-744E-656564454649,name=bios\n"
        f"start={_ESP_FIRST},size={_ESP_SECTORS},type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B,name=esp\n"
        f"start={_ROOT_FIRST},size={last - _ROOT_FIRST + 1},type=0FC63DAF-8483-4772-8E79-3D69D8477DE4,name=root\n"
    )
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=table.encode())
    _make_esp(disk, work)
    size = (last - _ROOT_FIRST + 1) * _SECTOR_BYTES // 1024
    offset = f"offset={_ROOT_FIRST * _SECTOR_BYTES}"
    options: list[str | Path] = [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-m",
        "0",
        "-U",
        _ROOT_UUID,
        "-L",
        "root",
        "-d",
        root,
        "-E",
        offset,
    ]
    run(["mke2fs", *options, "-d", root, "-E", offset, disk, f"{size}k"])
    _install_bios_grub(disk, work)


def _make_esp(disk: Path, work: Path) -> None:
    """shim and GRUB as Debian signs them, at Debian's place and at the place that firmware looks by itself."""
    drive = f"{disk}@@{_ESP_FIRST * _SECTOR_BYTES}"
    config = work / "grub.cfg"
    config.write_text(_GRUB_START + "configfile $prefix/grub.cfg\n")
    shim = Path("/usr/lib/shim/shimx64.efi.signed")
    grub = Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed")
    geometry = ["-T", str(_ESP_SECTORS), "-h", "255", "-s", "63", "-H", str(_ESP_FIRST), "-F", "-c", "1"]
    run(["mformat", "-i", drive, *geometry, "-v", "ESP", "::"])
    run(["mmd", "-i", drive, "::/EFI", "::/EFI/BOOT", "::/EFI/debian"])
    for directory, first in (("BOOT", "BOOTX64.EFI"), ("debian", "shimx64.efi")):
        run(["mcopy", "-i", drive, shim, f"::/EFI/{directory}/{first}"])
        run(["mcopy", "-i", drive, grub, f"::/EFI/{directory}/grubx64.efi"])
    run(["mcopy", "-i", drive, config, "::/EFI/debian/grub.cfg"])


def _install_bios_grub(disk: Path, work: Path) -> None:
    """What grub-bios-setup does, without a device: boot.img in the first sector, the core in its partition."""
    images = Path("/usr/lib/grub/i386-pc")
    start = work / "start.cfg"
    start.write_text(_GRUB_START + "configfile $prefix/grub.cfg\n")
    core_file = work / "core.img"
    options: list[str | Path] = ["-O", "i386-pc", "-d", images, "-o", core_file, "-p", "/boot/grub", "-c", start]
    run(["grub-mkimage", *options, *_GRUB_MODULES])
    core = bytearray(core_file.read_bytes())
    sectors = -(-len(core) // _SECTOR_BYTES)
    if sectors > _ESP_FIRST - _BIOS_FIRST:
        raise LabError(f"GRUB's core of {sectors} sectors does not fit into the BIOS boot partition")
    # The core's first sector reads the rest of it: start, count, segment (grub/i386/pc/boot.h: the last block list).
    struct.pack_into("<QHH", core, 0x1F4, _BIOS_FIRST + 1, sectors - 1, 0x820)
    boot = bytearray((images / "boot.img").read_bytes())
    struct.pack_into("<Q", boot, 0x5C, _BIOS_FIRST)
    boot[0x64] = 0xFF  # boot drive: the one that the BIOS names
    boot[0x66:0x68] = b"\x90\x90"  # no jump over the check that the BIOS names a hard disk
    with disk.open("r+b") as file:
        file.write(boot[:440])  # up to the disk signature and partition table, which stay
        file.seek(_BIOS_FIRST * _SECTOR_BYTES)
        file.write(core)
        os.fsync(file.fileno())


def main() -> None:
    """`python -m classroom.golden_disk DISK WORK`: build, without the cache."""
    parser = argparse.ArgumentParser(description="Build the golden disk.")
    parser.add_argument("disk", type=Path, help="new raw file")
    parser.add_argument("work", type=Path, help="directory for temporary files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    build(arguments.disk, arguments.work)
    used = arguments.disk.stat().st_blocks * 512
    print(f"{arguments.disk}: {used >> 20} MiB of {DISK_BYTES >> 20} MiB used")


if __name__ == "__main__":
    main()
