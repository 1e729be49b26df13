"""A "Linux kernel" of a few hundred bytes that writes its command line and the text in its initrd to the serial port.

So a boot loader's hand-over is proved in a second and without the agent: by the 32-bit entry (BIOS) and by the EFI
hand-over entry (64 bit) of the Linux boot protocol (Documentation/arch/x86/boot.rst), version 2.15.
"""

import struct

_SETUP_SECTORS = 1
_HANDOVER = 0x200
"""Of the EFI entry, from the end of the setup sectors less 512: the protocol adds 512 for 64-bit firmware."""
_INIT_BYTES = 1 << 20
_SIZE = 0x1000

_PRINT = bytes.fromhex(
    "8bbe18020000"  # mov edi, [esi+0x218]   ramdisk_image
    "8b9e28020000"  # mov ebx, [esi+0x228]   cmd_line_ptr
    "8a03"  # next: mov al, [ebx]
    "84c0"  # test al, al
    "7416"  # jz done
    "88c1"  # mov cl, al
    "66bafd03"  # wait: mov dx, 0x3fd       line status of COM1
    "ec"  # in al, dx
    "a820"  # test al, 0x20
    "74f7"  # jz wait
    "66baf803"  # mov dx, 0x3f8
    "88c8"  # mov al, cl
    "ee"  # out dx, al
    "ffc3"  # inc ebx
    "ebe4"  # jmp next
    "89fb"  # done: mov ebx, edi
    "31ff"  # xor edi, edi
    "85db"  # test ebx, ebx
    "75dc"  # jnz next
    "f4"  # hlt
    "ebfd"  # jmp hlt
)
"""The same bytes mean the same in 32-bit and 64-bit mode. In: esi = boot_params."""


def build_tiny_kernel() -> bytes:
    """The kernel as a bzImage."""
    setup = bytearray((_SETUP_SECTORS + 1) * 512)
    setup[0:2] = b"MZ"
    struct.pack_into("<BHI", setup, 0x1F1, _SETUP_SECTORS, 0, _SIZE // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = bytes((0xEB, 0x66))
    struct.pack_into("<4sH", setup, 0x202, b"HdrS", 0x020F)
    setup[0x211] = 0x01  # LOADED_HIGH
    struct.pack_into("<I", setup, 0x214, 0x100000)  # code32_start
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)  # initrd_addr_max
    struct.pack_into("<IBBH", setup, 0x230, 0x200000, 1, 21, 0x9)  # alignment, relocatable, 64-bit and its hand-over
    struct.pack_into("<I", setup, 0x238, 2047)  # cmdline_size
    struct.pack_into("<QII", setup, 0x258, 0x1000000, _INIT_BYTES, _HANDOVER)
    code = bytearray(_SIZE)
    code[: len(_PRINT)] = _PRINT
    entry = b"\x48\x89\xd6" + _PRINT  # mov rsi, rdx: System V order (image handle, system table, boot_params)
    start = _HANDOVER + 512
    code[start : start + len(entry)] = entry
    return bytes(setup + code)
