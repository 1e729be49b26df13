"""Moving a GPT's backup to the end of a larger disk (UEFI specification 2.10, section 5.3). Pure: no I/O."""

import dataclasses
import struct
import zlib
from dataclasses import dataclass

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
"""Signature, revision, header size, header CRC, reserved, my LBA, alternate LBA, first and last usable LBA,
disk GUID, LBA of the entries, number and size of entries, CRC of the entries."""
_SIGNATURE = b"EFI PART"
_LARGEST_TABLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class GptHeader:
    """The fields of a header that we read or change."""

    revision: int
    header_size: int
    my_lba: int
    alternate_lba: int
    first_usable_lba: int
    last_usable_lba: int
    disk_guid: bytes
    entries_lba: int
    entry_count: int
    entry_size: int
    entries_crc: int

    @property
    def table_bytes(self) -> int:
        """Length of the table of entries."""
        return self.entry_count * self.entry_size

    def build(self, sector_bytes: int) -> bytes:
        """One sector, with its CRC."""
        plain = self._pack(0)
        checksum = zlib.crc32(plain.ljust(self.header_size, b"\0")[: self.header_size])
        return self._pack(checksum).ljust(sector_bytes, b"\0")

    def _pack(self, checksum: int) -> bytes:
        return _HEADER.pack(
            _SIGNATURE,
            self.revision,
            self.header_size,
            checksum,
            0,
            self.my_lba,
            self.alternate_lba,
            self.first_usable_lba,
            self.last_usable_lba,
            self.disk_guid,
            self.entries_lba,
            self.entry_count,
            self.entry_size,
            self.entries_crc,
        )


@dataclass(frozen=True, slots=True)
class Relocation:
    """What to write, in this order: with the backup first, a power cut leaves one good header at least."""

    writes: tuple[tuple[int, bytes], ...]
    """(offset in bytes, data)"""


def parse_header(sector: bytes) -> GptHeader:
    """Raises ValueError when the signature or the CRC does not hold."""
    if len(sector) < _HEADER.size or sector[:8] != _SIGNATURE:
        raise ValueError("no GPT header is there")
    _, revision, size, checksum, _, mine, other, first, last, guid, entries, count, entry_size, entries_crc = (
        _HEADER.unpack_from(sector)
    )
    if not _HEADER.size <= size <= len(sector):
        raise ValueError(f"the GPT header says that it is {size} bytes long")
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != checksum:
        raise ValueError("the GPT header's checksum does not hold")
    header = GptHeader(revision, size, mine, other, first, last, guid, entries, count, entry_size, entries_crc)
    if not 0 < header.table_bytes <= _LARGEST_TABLE_BYTES:
        raise ValueError("the GPT has an impossible table of entries")
    return header


def relocate_backup(mbr: bytes, primary: bytes, entries: bytes, disk_bytes: int, sector_bytes: int) -> Relocation:
    """Place the backup at the end of a disk of `disk_bytes`.

    `mbr`: the protective MBR, 512 bytes; `primary`: the sector with the primary header; `entries`: its table. Raises
    ValueError when they are not a whole GPT, or the disk is too small for it.
    """
    header = parse_header(primary)
    if len(entries) != header.table_bytes or zlib.crc32(entries) != header.entries_crc:
        raise ValueError("the checksum of the GPT's entries does not hold")
    last = disk_bytes // sector_bytes - 1
    table_sectors = -(-len(entries) // sector_bytes)
    last_usable = last - table_sectors - 1
    if last_usable < header.last_usable_lba:
        raise ValueError("the disk is smaller than the GPT's partitions need")
    backup_table_lba = last - table_sectors
    moved = dataclasses.replace(header, alternate_lba=last, last_usable_lba=last_usable)
    backup = dataclasses.replace(moved, my_lba=last, alternate_lba=header.my_lba, entries_lba=backup_table_lba)
    padded = entries.ljust(table_sectors * sector_bytes, b"\0")
    return Relocation(
        (
            (backup_table_lba * sector_bytes, padded),
            (last * sector_bytes, backup.build(sector_bytes)),
            (header.my_lba * sector_bytes, moved.build(sector_bytes)),
            (0, _protective_mbr(mbr, last)),
        )
    )


def _protective_mbr(mbr: bytes, last_lba: int) -> bytes:
    """The entry of type EE that covers the disk is made to cover the larger one; boot code and others stay."""
    changed = bytearray(mbr)
    for at in range(446, 510, 16):
        if changed[at + 4] == 0xEE and struct.unpack_from("<I", changed, at + 8)[0] == 1:
            struct.pack_into("<I", changed, at + 12, min(last_lba, 0xFFFFFFFF))
    return bytes(changed)
