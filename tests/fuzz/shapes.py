"""Strategies of hypothesis for packets that a parser takes far in: whole ones, slightly wrong ones, mutated ones.

A DHCP packet names the addresses that the target's server knows, so that a short series of them gets leases, renews
and releases them; its options may stand in `file` and `sname` (overload), come through a relay agent, lie about their
length. A TFTP request has the options that exist, with values that should not.
"""

import random
import struct

from cast_shapes import mostly, said_by_tcp, to_receiver, to_sender
from cast_shapes import words as words_of_the_cast
from corpus import MAX_PACKET_BYTES, corpus, mutate
from hypothesis import strategies as st
from targets import POOL, SERVER

from netboot.wire.dhcp import MAGIC_COOKIE
from netboot.wire.dhcp_options import LINK_SELECTION, MESSAGE_TYPE, OVERLOAD, REGISTRY

LONGEST_SERIES = 5


def mutated(target: str) -> st.SearchStrategy[bytes]:
    packets = corpus(target)
    return st.integers(0, 2**32 - 1).map(lambda seed: mutate(random.Random(seed), packets))


# DHCP

addresses = mostly(
    st.sampled_from([SERVER.packed, POOL.first.packed, POOL.last.packed]),
    st.sampled_from([bytes(4), b"\xff" * 4, b"\xc0\0\2\1"]) | st.binary(min_size=4, max_size=4),
)
numbers_of_4_bytes = mostly(st.sampled_from([bytes(4), b"\0\0\x0e\x10", b"\xff" * 4]), st.binary(max_size=5))
numbers_of_2_bytes = mostly(
    st.sampled_from([b"\0\0", b"\0\7", b"\0\x10", b"\2\x40", b"\xff\xff"]), st.binary(max_size=5)
)
texts = st.one_of(
    st.sampled_from(
        [b"PXEClient:Arch:00000:UNDI:003016", b"PXEClient", b"HTTPClient:Arch:00016", b"iPXE", b"\4iPXE", b"pc-01\0"]
    ),
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=255),
)


def written(code: int, value: bytes, lie: int = 0) -> bytes:
    """An option; `lie` is added to its length."""
    return bytes([code, (len(value[:255]) + lie) & 0xFF]) + value[:255]


def sub_options(codes: st.SearchStrategy[int], values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    lies = mostly(st.just(0), st.integers(-1, 255))
    return st.lists(st.builds(written, codes, values, lies), max_size=4).map(b"".join)


values_of_options: dict[int, st.SearchStrategy[bytes]] = {
    **dict.fromkeys((1, 3, 6, 28, 50, 54, 118), mostly(addresses, st.binary(max_size=9))),
    **dict.fromkeys((51, 58, 59), numbers_of_4_bytes),
    **dict.fromkeys((57, 93, 94), numbers_of_2_bytes),
    **dict.fromkeys((12, 15, 56, 60, 61, 66, 67, 77, 97), texts),
    43: sub_options(st.sampled_from([6, 8, 9, 10, 71, 255]), st.binary(max_size=20)),
    55: st.binary(max_size=60),
    82: sub_options(st.sampled_from([1, 2, LINK_SELECTION, 9, 255]), addresses | st.binary(max_size=30)),
}
assert values_of_options.keys() | {MESSAGE_TYPE.code, OVERLOAD.code} == REGISTRY.keys(), "what the parser reads is here"
known_options = st.sampled_from(sorted(values_of_options)).flatmap(
    lambda code: st.tuples(st.just(code), values_of_options[code])
)
options = mostly(known_options, st.tuples(st.integers(0, 255), st.binary(max_size=255)))
right_options = options.map(lambda option: written(*option))
wrong_options = st.builds(lambda option, lie: written(*option, lie), options, st.integers(-1, 1))


def areas(most: int) -> st.SearchStrategy[bytes]:
    """Options, at most so many, and what ends them."""
    parts = mostly(st.lists(right_options, max_size=most), st.lists(wrong_options, max_size=most))
    ends = mostly(st.just(b"\xff"), st.sampled_from([b"", b"\0" * 8 + b"\xff", b"\x0c", b"\x0c\xff"]))
    return st.builds(lambda parts, end: b"".join(parts) + end, parts, ends)


heads = mostly(
    st.just((1, 1, 6, 0)),
    st.sampled_from([(1, 1, 6, 1), (2, 1, 6, 0), (1, 1, 0, 0), (1, 1, 17, 0), (1, 6, 8, 0), (1, 32, 16, 3)]),
)
kinds = mostly(st.sampled_from([1, 3, 4, 7, 8]), st.sampled_from([2, 5, 6, 9, None]))


@st.composite
def dhcp_packets(draw: st.DrawFn) -> bytes:
    op, htype, hlen, hops = draw(heads)
    header = struct.pack("!4BI2H", op, htype, hlen, hops, 7, 0, draw(st.sampled_from([0, 0x8000, 0xFFFF])))
    ciaddr, giaddr = draw(st.just(bytes(4)) | addresses), draw(mostly(st.just(bytes(4)), addresses))
    chaddr = bytes.fromhex("5254000000") + bytes([draw(st.integers(1, 3))])
    kind, overload = draw(kinds), draw(mostly(st.just(0), st.integers(1, 4)))
    sname = draw(areas(1) if overload & 2 else texts)[:64].ljust(64, b"\0")
    file = draw(areas(2) if overload & 1 else texts)[:128].ljust(128, b"\0")
    first = (written(53, bytes([kind])) if kind else b"") + (written(52, bytes([overload])) if overload else b"")
    packet = header + ciaddr + bytes(8) + giaddr + chaddr.ljust(16, b"\0") + sname + file + MAGIC_COOKIE + first
    return (packet + draw(areas(8)))[:MAX_PACKET_BYTES]


# TFTP

words = st.text(st.characters(max_codepoint=127), max_size=30)
paths = mostly(
    st.sampled_from(["bios/core.0", "/grub/grub.cfg", "../x", "C:\\x", "%2e%2e", "{{7}}"]) | words,
    st.sampled_from(["", "a" * 500]) | st.text(max_size=30),
)
modes = mostly(st.sampled_from(["octet", "netascii", "OCTET"]), st.sampled_from(["mail", "", "octet\r\n", "é"]))
option_names = mostly(
    st.sampled_from(["blksize", "tsize", "timeout", "windowsize", "rollover"]),
    st.sampled_from(["BLKSIZE", "multicast", "", "x"]) | words,
)
odd_values = st.sampled_from(["-1", "+8", " 8", "0x10", "", "9" * 11, "9" * 400, "１", "²"])
option_values = mostly(
    st.sampled_from(["0", "1", "7", "8", "512", "1468", "65464", "65465", "4294967296"]),
    st.one_of(odd_values, st.integers(-(2**70), 2**70).map(str), st.text(max_size=8)),
)
opcodes = mostly(st.sampled_from([1, 1, 1, 4, 4, 5]), st.sampled_from([0, 2, 3, 6, 7, 0x0100]))


@st.composite
def tftp_packets(draw: st.DrawFn) -> bytes:
    opcode = draw(opcodes)
    if opcode in (3, 4, 5):
        rest = draw(st.integers(0, 7) | st.integers(0, 0xFFFF)).to_bytes(2, "big") + draw(st.just(b"") | texts)
    else:
        strings = [draw(paths), draw(modes)] if opcode != 6 else []
        for option in draw(st.lists(st.tuples(option_names, option_values), max_size=6)):
            strings += option
        rest = b"".join(string.encode("utf-8", "surrogatepass") + b"\0" for string in strings)
    end = draw(mostly(st.just(b""), st.sampled_from([b"\0", b"\0\0\0", b"x"])))
    return (opcode.to_bytes(2, "big") + rest + end)[:MAX_PACKET_BYTES]


def series(target: str) -> st.SearchStrategy[list[bytes]]:
    """Packets that come one after the other."""
    whole = {
        "dhcp": dhcp_packets(),
        "tftp": tftp_packets(),
        "cast-sender": to_sender,
        "cast-receiver": to_receiver,
        "cast-words": words_of_the_cast,
        "cast-tcp": said_by_tcp,
    }[target]
    return st.lists(mostly(whole, mutated(target)), min_size=1, max_size=LONGEST_SERIES)
