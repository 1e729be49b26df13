"""Where UEFI programs lie that start the system of a disk."""

LOADERS = (
    "/EFI/debian/shimx64.efi",
    "/EFI/debian/shimaa64.efi",
    "/EFI/ubuntu/shimx64.efi",
    "/EFI/ubuntu/shimaa64.efi",
    "/EFI/fedora/shimx64.efi",
    "/EFI/redhat/shimx64.efi",
    "/EFI/rocky/shimx64.efi",
    "/EFI/almalinux/shimx64.efi",
    "/EFI/opensuse/shim.efi",
    "/EFI/debian/shimia32.efi",
    "/EFI/debian/grubx64.efi",
    "/EFI/Microsoft/Boot/bootmgfw.efi",
    "/EFI/BOOT/BOOTX64.EFI",
    "/EFI/BOOT/BOOTAA64.EFI",
    "/EFI/BOOT/BOOTIA32.EFI",
)
"""On an EFI system partition, the first found is started. The fallback path comes last: shim's fallback program there
may write boot entries and restart the machine."""
