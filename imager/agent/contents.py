"""What the agent's initramfs is made of: packages, programs, Python, kernel modules. Pure: lists and rules, no I/O.

Everything is chosen by name (a package is only where a file comes from), and what a chosen file needs follows it:
libraries by the loader, modules by modules.dep. So the size is a matter of this page.
"""

from fnmatch import fnmatch

SUITE = "bookworm"

PACKAGES = (
    "busybox",
    "btrfs-progs",
    "dosfstools",
    "e2fsprogs",
    "efibootmgr",
    "fdisk",
    "kmod",
    "libisal2",
    "libpython3-stdlib",
    "linux-image-amd64",
    "ntfs-3g",
    "openssh-client",
    "partclone",
    "python3-construct",
    "python3-cryptography",
    "python3-minimal",
    "python3-numpy",
    "python3-zstandard",
    "util-linux",
    "wimtools",
    "xfsprogs",
)
"""Debian packages that are unpacked, with what they depend on."""

WHEELS = ("blake3",)
"""Python packages that the distribution lacks, from the index that pip knows, in the version the appliance runs."""

PROGRAMS = (
    "usr/bin/busybox",
    "usr/bin/efibootmgr",
    "usr/bin/kmod",
    "usr/bin/ntfs-3g",
    "usr/bin/ntfsinfo",
    "usr/bin/python3.11",
    "usr/bin/ssh-keygen",
    "usr/bin/wimlib-imagex",
    "usr/sbin/blkid",
    "usr/sbin/blockdev",
    "usr/sbin/e2fsck",
    "usr/sbin/losetup",
    "usr/sbin/wipefs",
    "usr/sbin/mke2fs",
    "usr/sbin/mkfs.fat",
    "usr/sbin/mkntfs",
    "usr/sbin/ntfsresize",
    "usr/sbin/resize2fs",
    "usr/sbin/sfdisk",
    "usr/sbin/partclone.btrfs",
    "usr/sbin/partclone.exfat",
    "usr/sbin/partclone.extfs",
    "usr/sbin/partclone.f2fs",
    "usr/sbin/partclone.fat",
    "usr/sbin/partclone.hfsp",
    "usr/sbin/partclone.ntfs",
    "usr/sbin/partclone.xfs",
)

LIBRARIES = (
    "usr/lib/x86_64-linux-gnu/libisal.so.2",
    "usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "usr/lib/x86_64-linux-gnu/libblkid.so.1",
    "usr/lib/x86_64-linux-gnu/ossl-modules/legacy.so",
)
"""Opened by name while running, so that no loader tells of them. libgcc_s: threads that end; legacy: cryptography loads
OpenSSL's old ciphers before it does anything."""

BLANKED = ("usr/lib/x86_64-linux-gnu/libicudata.so.72",)
"""Libraries that must be there to be linked but whose 30 MB of tables nothing here reads: wimlib's XML is UTF-16, which
libxml2 converts without them. Their constants become zeros, which compress to nothing."""

LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/bin/python3": "python3.11",
    "usr/bin/sh": "busybox",
    "usr/sbin/modprobe": "../bin/kmod",
    "usr/sbin/depmod": "../bin/kmod",
    "usr/sbin/mkfs.ext4": "mke2fs",
    "usr/sbin/mkfs.ntfs": "mkntfs",
    "usr/sbin/mkfs.vfat": "mkfs.fat",
    "usr/sbin/mount.ntfs-3g": "../bin/ntfs-3g",
    "usr/sbin/partclone.ext2": "partclone.extfs",
    "usr/sbin/partclone.ext3": "partclone.extfs",
    "usr/sbin/partclone.ext4": "partclone.extfs",
    "usr/sbin/partclone.vfat": "partclone.fat",
    "usr/bin/wimapply": "wimlib-imagex",
    "usr/lib/x86_64-linux-gnu/libblas.so.3": "blas/libblas.so.3",
    "usr/lib/x86_64-linux-gnu/liblapack.so.3": "lapack/liblapack.so.3",
}
"""Symbolic links, most of which a package's own scripts would make; no such script runs here."""

PYTHON_TREES = ("usr/lib/python3.11", "usr/lib/python3/dist-packages")

PYTHON_UNWANTED = (
    "usr/lib/python3.11/config-*",
    "usr/lib/python3.11/curses",
    "usr/lib/python3.11/distutils",
    "usr/lib/python3.11/ensurepip",
    "usr/lib/python3.11/idlelib",
    "usr/lib/python3.11/dist-packages",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/lib-dynload/_ssl*",
    "usr/lib/python3.11/lib-dynload/nis*",
    "usr/lib/python3.11/mailbox.py",
    "usr/lib/python3.11/turtle.py",
    "usr/lib/python3.11/lib-dynload/_curses*",
    "usr/lib/python3.11/lib-dynload/_dbm*",
    "usr/lib/python3.11/lib-dynload/_sqlite3*",
    "usr/lib/python3.11/lib-dynload/_test*",
    "usr/lib/python3.11/lib-dynload/readline*",
    "usr/lib/python3.11/lib-dynload/_codecs_??*",
    "usr/lib/python3.11/lib-dynload/_xx*",
    "usr/lib/python3.11/pydoc_data",
    "usr/lib/python3.11/sqlite3",
    "usr/lib/python3.11/tkinter",
    "usr/lib/python3.11/turtledemo",
    "usr/lib/python3.11/wsgiref",
    "usr/lib/python3.11/dbm",
    "usr/lib/python3/dist-packages/pkg_resources",
    "usr/lib/python3/dist-packages/numpy/core/_simd.*",
    "usr/lib/python3/dist-packages/numpy/core/include",
    "usr/lib/python3/dist-packages/numpy/distutils",
    "usr/lib/python3/dist-packages/numpy/f2py",
    "*/numpy/*/lib",
    "*/tests",
    "*/test",
    "*/__pycache__",
    "*.egg-info",
    "*.dist-info",
    "*.a",
    "*.h",
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.c",
)
"""Patterns of what is left out of PYTHON_TREES; a directory goes with all that is in it."""

CHECKED_IMPORTS = (
    "blake3",
    "construct",
    "cryptography.hazmat.backends.openssl.backend",
    "cryptography.hazmat.primitives.ciphers.aead",
    "ctypes",
    "http.client",
    "multiprocessing.connection",
    "numpy",
    "xml.etree.ElementTree",
    "zstandard",
)
"""What must import after the choice, or PYTHON_UNWANTED says too much."""

DATA = ("etc/mke2fs.conf",)

MODULES = (
    # networks
    "kernel/drivers/net/ethernet/amazon/ena/*",
    "kernel/drivers/net/ethernet/amd/pcnet32",
    "kernel/drivers/net/ethernet/amd/xgbe/*",
    "kernel/drivers/net/ethernet/aquantia/*",
    "kernel/drivers/net/ethernet/atheros/*",
    "kernel/drivers/net/ethernet/broadcom/*",
    "kernel/drivers/net/ethernet/dec/tulip/tulip",
    "kernel/drivers/net/ethernet/emulex/*",
    "kernel/drivers/net/ethernet/google/*",
    "kernel/drivers/net/ethernet/intel/*",
    "kernel/drivers/net/ethernet/jme",
    "kernel/drivers/net/ethernet/marvell/*",
    "kernel/drivers/net/ethernet/mellanox/mlx4/*",
    "kernel/drivers/net/ethernet/microsoft/*",
    "kernel/drivers/net/ethernet/nvidia/*",
    "kernel/drivers/net/ethernet/realtek/*",
    "kernel/drivers/net/ethernet/sis/*",
    "kernel/drivers/net/ethernet/stmicro/*",
    "kernel/drivers/net/ethernet/via/*",
    "kernel/drivers/net/hyperv/*",
    "kernel/drivers/net/phy/*",
    "kernel/drivers/net/usb/aqc111",
    "kernel/drivers/net/usb/asix",
    "kernel/drivers/net/usb/ax88179_178a",
    "kernel/drivers/net/usb/cdc_ether",
    "kernel/drivers/net/usb/cdc_ncm",
    "kernel/drivers/net/usb/dm9601",
    "kernel/drivers/net/usb/lan78xx",
    "kernel/drivers/net/usb/r815*",
    "kernel/drivers/net/usb/rndis_host",
    "kernel/drivers/net/usb/smsc*",
    "kernel/drivers/net/virtio_net",
    "kernel/drivers/net/vmxnet3/*",
    "kernel/drivers/net/xen-netfront",
    "kernel/net/packet/*",
    # disks
    "kernel/drivers/ata/*",
    "kernel/drivers/block/loop",
    "kernel/drivers/block/virtio_blk",
    "kernel/drivers/block/xen-blkfront",
    "kernel/drivers/hv/hv_vmbus",
    "kernel/drivers/message/fusion/mpt*",
    "kernel/drivers/mmc/*",
    "kernel/drivers/nvme/host/nvme",
    "kernel/drivers/pci/controller/vmd",
    "kernel/drivers/scsi/aacraid/*",
    "kernel/drivers/scsi/hpsa",
    "kernel/drivers/scsi/hv_storvsc",
    "kernel/drivers/scsi/megaraid/megaraid_sas",
    "kernel/drivers/scsi/mpt3sas/*",
    "kernel/drivers/scsi/sd_mod",
    "kernel/drivers/scsi/smartpqi/*",
    "kernel/drivers/scsi/sym53c8xx_2/*",
    "kernel/drivers/scsi/virtio_scsi",
    "kernel/drivers/scsi/vmw_pvscsi",
    "kernel/drivers/ufs/*",
    "kernel/drivers/usb/host/*",
    "kernel/drivers/usb/storage/uas",
    "kernel/drivers/usb/storage/usb-storage",
    "kernel/drivers/virtio/*",
    # a keyboard, for the shell of a person who looks for a fault
    "kernel/drivers/hid/hid-generic",
    "kernel/drivers/hid/usbhid/*",
    "kernel/drivers/input/serio/hyperv-keyboard",
    # file systems, and what they load by name
    "kernel/arch/x86/crypto/crc32*",
    "kernel/crypto/blake2b_generic",
    "kernel/crypto/crc32*",
    "kernel/crypto/xxhash_generic",
    "kernel/drivers/firmware/efi/*",
    "kernel/fs/btrfs/*",
    "kernel/fs/efivarfs/*",
    "kernel/fs/exfat/*",
    "kernel/fs/ext4/*",
    "kernel/fs/fat/*",
    "kernel/fs/fuse/fuse",
    "kernel/fs/nls/nls_ascii",
    "kernel/fs/nls/nls_cp437",
    "kernel/fs/nls/nls_iso8859-1",
    "kernel/fs/nls/nls_utf8",
    "kernel/fs/ntfs3/*",
    "kernel/fs/overlayfs/*",
    "kernel/fs/squashfs/*",
    "kernel/fs/xfs/*",
    "kernel/lib/libcrc32c",
)
"""Patterns of module paths below /lib/modules/VERSION, without `.ko`. A `*` passes a slash too."""

MODULES_UNWANTED = (
    "kernel/drivers/ata/pata_legacy",
    "kernel/drivers/mmc/host/vub300",
    "kernel/drivers/net/ethernet/broadcom/bnx2x/*",
    "kernel/drivers/net/ethernet/intel/ice/*",
    "kernel/drivers/net/ethernet/marvell/prestera/*",
    "kernel/drivers/usb/host/*hcd-platform",
)
"""Left out again: too large for what they drive in a classroom (they need firmware files too), or harmful to probe."""


def is_wanted_module(path: str) -> bool:
    """Whether `path` (below /lib/modules/VERSION, with `.ko`) is chosen itself, not only as what another needs."""
    name = path.removesuffix(".ko")
    return any(fnmatch(name, p) for p in MODULES) and not any(fnmatch(name, p) for p in MODULES_UNWANTED)


def is_wanted_python(path: str) -> bool:
    """Whether `path` (from the root, no leading slash) of a Python tree goes into the agent."""
    return not any(fnmatch(path, pattern) for pattern in PYTHON_UNWANTED)


def needed_modules(dependencies: str) -> list[str]:
    """The wanted modules with all that they need, from the text of modules.dep."""
    needs: dict[str, list[str]] = {}
    for line in dependencies.splitlines():
        module, _, rest = line.partition(":")
        needs[module] = rest.split()
    chosen: set[str] = set()
    stack = [module for module in needs if is_wanted_module(module)]
    while stack:
        module = stack.pop()
        if module not in chosen:
            chosen.add(module)
            stack.extend(needs.get(module, ()))
    return sorted(chosen)
