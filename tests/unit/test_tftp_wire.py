"""TFTP packets: bytes to values and back."""

import pytest

from netboot.errors import WireError
from netboot.wire.tftp import (
    Ack,
    Data,
    Error,
    ErrorCode,
    OptionAck,
    ReadRequest,
    WriteRequest,
    build_ack,
    build_data_header,
    build_error,
    build_option_ack,
    parse_tftp,
)


def test_a_read_request_is_read_with_its_options_in_lower_case() -> None:
    packet = parse_tftp(b"\0\1uefi/shimx64.efi\0OCTET\0TSize\x000\0blksize\x001468\0")
    assert packet == ReadRequest("uefi/shimx64.efi", "octet", {"tsize": "0", "blksize": "1468"})


def test_padding_after_a_request_is_tolerated() -> None:
    assert parse_tftp(b"\0\1a\0octet\0\0\0\0") == ReadRequest("a", "octet")


def test_a_write_request_is_read() -> None:
    assert parse_tftp(b"\0\2a\0netascii\0") == WriteRequest("a", "netascii")


@pytest.mark.parametrize("block", [0, 1, 65535])
def test_data_and_ack_survive(block: int) -> None:
    assert parse_tftp(build_data_header(block) + b"abc") == Data(block, b"abc")
    assert parse_tftp(build_ack(block)) == Ack(block)


def test_block_numbers_go_round_on_the_wire() -> None:
    assert parse_tftp(build_data_header(65536)) == Data(0, b"")
    assert parse_tftp(build_ack(65537)) == Ack(1)


def test_an_error_survives_and_its_end_may_be_missing() -> None:
    assert parse_tftp(build_error(ErrorCode.FILE_NOT_FOUND, "no file")) == Error(1, "no file")
    assert parse_tftp(b"\0\5\0\x09x") == Error(9, "x")
    assert parse_tftp(b"\0\5\0\0") == Error(0, "")


def test_an_option_acknowledgement_survives() -> None:
    assert parse_tftp(build_option_ack({"blksize": "1468"})) == OptionAck({"blksize": "1468"})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1",
        b"\0\3\0",  # tftpy's decoder lets struct.error out
        b"\0\0aa",
        b"\0\7aa",
        b"\0\1aaaa",
        b"\0\1a\0octet",
        b"\0\1\0octet\0",
        b"\0\1a\0octet\0blksize\0",
        b"\0\1a\0octet\0\0\x001\0",
        b"\0\1a\xff\0octet\0",
        b"\0\1a\0octet\0x\0\xe4\0",
        b"\0\1" + b"a" * 600 + b"\0octet\0",
        b"\0\6a\0",
        b"\0\6\0\0\0",
    ],
)
def test_what_is_no_packet_is_a_wire_error(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_tftp(data)
