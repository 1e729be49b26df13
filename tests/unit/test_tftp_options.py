"""What a client gets of what it asks for, and that nonsense is passed over."""

import pytest

from netboot.tftp.netascii import to_netascii
from netboot.tftp.options import Limits, Terms, negotiate

LIMITS = Limits()


def test_without_options_the_terms_are_rfc_1350s() -> None:
    assert negotiate({}, 1000, LIMITS) == Terms(512, 1)


def test_ovmf_gets_all_it_asks_for() -> None:
    terms = negotiate({"tsize": "0", "blksize": "1468", "windowsize": "4"}, 4096, LIMITS)
    assert terms == Terms(1468, 4, accepted={"blksize": "1468", "tsize": "4096", "windowsize": "4"})


def test_values_above_our_limits_are_lowered() -> None:
    terms = negotiate({"blksize": "65464", "windowsize": "65535"}, 1, LIMITS)
    assert (terms.block_bytes, terms.window_blocks) == (1468, 64)
    assert terms.accepted == {"blksize": "1468", "windowsize": "64"}


def test_a_window_of_large_blocks_is_bounded_in_bytes() -> None:
    terms = negotiate({"blksize": "65464", "windowsize": "64"}, 1, Limits(block_bytes=65464))
    assert terms.block_bytes * terms.window_blocks <= LIMITS.window_bytes


@pytest.mark.parametrize("size", ["8", "512", "1024"])
def test_a_smaller_block_is_what_the_client_said(size: str) -> None:
    assert negotiate({"blksize": size}, 1, LIMITS).block_bytes == int(size)


@pytest.mark.parametrize("name", ["blksize", "windowsize", "timeout", "tsize"])
@pytest.mark.parametrize("value", ["", "abc", "-1", "+8", "1.5", "0x200", " 512", "٣", "9" * 400, "99999999999"])
def test_a_value_that_is_no_number_is_ignored(name: str, value: str) -> None:
    assert negotiate({name: value}, 1, LIMITS) == Terms()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("blksize", "0"), ("blksize", "7"), ("blksize", "65465"), ("windowsize", "0"), ("windowsize", "65536"),
        ("timeout", "0"), ("timeout", "256"), ("timeout", "31"), ("multicast", ""), ("rollover", "2"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_and_an_unknown_option_are_ignored(name: str, value: str) -> None:
    assert negotiate({name: value}, 1, LIMITS) == Terms()


def test_a_timeout_is_taken_as_it_is() -> None:
    assert negotiate({"timeout": "3"}, 1, LIMITS) == Terms(timeout_s=3, accepted={"timeout": "3"})


def test_the_size_of_an_empty_file_is_not_told() -> None:
    # Seen on: curl 7.88, which gives up on `tsize 0` in the answer, and so cannot fetch an empty file from dnsmasq.
    assert negotiate({"tsize": "0", "blksize": "1024"}, 0, LIMITS).accepted == {"blksize": "1024"}
    assert negotiate({"tsize": "0"}, 1, LIMITS).accepted == {"tsize": "1"}


@pytest.mark.parametrize(
    ("local", "network"), [(b"", b""), (b"a\nb", b"a\r\nb"), (b"a\rb", b"a\r\0b"), (b"\r\n", b"\r\0\r\n")]
)
def test_text_becomes_netascii(local: bytes, network: bytes) -> None:
    assert to_netascii(local) == network
