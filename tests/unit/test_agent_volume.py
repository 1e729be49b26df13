"""Where a file image is received: the memory that it may take."""

from pathlib import Path

import pytest

from imager.agent.volume import KEPT_MEMORY_BYTES, MIB, scratch_file
from imager.errors import TargetError


def test_the_receivers_memory_is_not_given_to_the_file(tmp_path: Path) -> None:
    ring, spare = 64 * MIB, 100 * MIB
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9999999 kB\nMemAvailable: {(KEPT_MEMORY_BYTES + ring + spare) // 1024} kB\n")
    with (
        pytest.raises(TargetError, match=r"101 MiB .* has 100 MiB to spare; nothing was written"),
        scratch_file(spare + MIB, ring, meminfo),
    ):
        pass


@pytest.mark.root
def test_a_file_that_fits_gets_a_place(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemAvailable: {(KEPT_MEMORY_BYTES + 66 * MIB) // 1024} kB\n")
    with scratch_file(2 * MIB, 64 * MIB, meminfo) as path:
        path.write_bytes(bytes(2 * MIB))
    assert not path.exists()
