"""What counts as success in the boot matrix."""

import pytest
from classroom.firmware import AAVMF, OVMF, OVMF_HTTP, OVMF_SECURE, OVMF_SECURE_DEFAULT
from classroom.matrix import FIRMWARE, REFUSED, Beside, Row, table_of, ways


@pytest.mark.parametrize(
    ("row", "is_good"),
    [
        (Row(OVMF, Beside.SERVER, 40.0, 20.0), True),
        (Row(OVMF, Beside.SERVER, 40.0, None), False),
        (Row(OVMF, Beside.SERVER, None, 20.0), False),
        (Row(OVMF, Beside.SERVER, 40.0, 20.0, (REFUSED,)), False),
        (Row(AAVMF, Beside.KEA, None, 20.0), True),  # there is no agent for ARM64
        (Row(OVMF_SECURE, Beside.KEA, 90.0, 80.0, (REFUSED,)), True),
        (Row(OVMF_SECURE, Beside.KEA, 90.0, 80.0), False),  # refused, and the boot log did not say so
        (Row(OVMF_SECURE_DEFAULT, Beside.DNSMASQ, 90.0, 80.0, (REFUSED,)), True),
        (Row(OVMF_SECURE_DEFAULT, Beside.DNSMASQ, 90.0, 80.0), False),
        (Row(OVMF_SECURE, Beside.SNIPPET, 50.0, 20.0), True),
        (Row(OVMF_SECURE, Beside.SERVER, 50.0, 20.0, (REFUSED,)), False),
    ],
)
def test_a_row_is_good_when_the_machine_came_to_agent_and_disk_by_the_way_that_is_expected(
    row: Row, is_good: bool
) -> None:
    assert row.is_good == is_good


def test_every_firmware_is_tried_beside_every_dhcp_server_and_by_snippet_where_there_is_one() -> None:
    for one in FIRMWARE:
        wanted = {Beside.DNSMASQ} if one is OVMF_SECURE_DEFAULT else {Beside.SERVER, Beside.DNSMASQ, Beside.KEA}
        assert set(ways(one)) >= wanted
    assert Beside.SNIPPET in ways(OVMF_SECURE) and Beside.SNIPPET not in ways(OVMF_HTTP)


def test_the_table_has_a_row_a_firmware_and_a_column_a_server() -> None:
    table = table_of([Row(OVMF, Beside.SERVER, 40.0, 20.0), Row(OVMF, Beside.KEA, 1.0, None, ("x",), "why")])
    assert (len(table.columns), table.row_count) == (3, 1)
    assert list(table.columns[2].cells) == ["1.0 / -  after x  FAILED"]
