"""Words of the cast that every program of it needs, without its codecs: they would bring numpy. Pure."""

from enum import IntEnum, StrEnum

MAGIC = 0xCA
VERSION = 3
HEADER_BYTES = 16
"""Of every sealed datagram."""
TAG_BYTES = 16
"""At the end of every sealed datagram: AES-256-GCM's proof."""
KEY_BYTES = 32
PACKET_BYTES = 1472
"""Of a SOURCE, REPAIR or BEACON where nothing else is said: with IPv4 and UDP headers an Ethernet MTU of 1,500."""
PACKET_BYTES_RANGE = range(512, 9216)
"""From what every network carries to the longest jumbo frames."""
MAX_RECEIVER = 0xFFFF
BEACON_NUMBER = 0xFFFFFFFF
"""Stands in a BEACON's header where SOURCE and REPAIR have the number of a symbol or block: none of these has it."""


def symbol_bytes(packet_bytes: int) -> int:
    """The payload of a SOURCE or REPAIR in packets of this length."""
    return packet_bytes - HEADER_BYTES - TAG_BYTES


SYMBOL_BYTES = symbol_bytes(PACKET_BYTES)


class Kind(IntEnum):
    """What a datagram is: the low four bits of its second byte."""

    SOURCE = 0
    REPAIR = 1
    BEACON = 2
    JOIN = 3
    NACK = 4
    STATUS = 5
    DONE = 6
    ACK = 7
    ANNOUNCE = 8
    LEAVE = 9
    ANNOUNCE6 = 10


class Phase(IntEnum):
    """How far a session is, as its beacons say."""

    WAITING = 0
    """Receivers may join, nothing was sent."""
    SENDING = 1
    """The first pass: blocks below the beacon's frontier were sent once."""
    REPAIRING = 2
    """All was sent once; what is asked for is sent again."""
    ENDED = 3
    """Nothing more will be sent."""


class Holdup(IntEnum):
    """What keeps a receiver from taking more."""

    NONE = 0
    DISK = 1
    PROCESSOR = 2


class SlowPolicy(StrEnum):
    """What becomes of a machine that is slower than the others."""

    WAIT = "wait"
    """All go as fast as the slowest."""
    DEMOTE = "demote"
    """It keeps what it gets, and is given the rest when the others are done."""
    FAIL = "fail"


class Reject(StrEnum):
    """Why a datagram was counted and dropped."""

    NOT_OURS = "not a datagram of the cast"
    OTHER_SESSION = "of another session"
    UNKNOWN_RECEIVER = "of a receiver that was not admitted"
    REPEATED = "taken before, or too late: a duplicate or a replay"
    FORGED = "not sealed with the key: forged or damaged"
    OUT_OF_RANGE = "of a block, symbol or row that does not exist"
    UNSOLICITED = "not expected now"
