"""Words of the cast that every program of it needs, without its codecs: they would bring numpy. Pure."""

from enum import IntEnum, StrEnum

MAGIC = 0xCA
VERSION = 1
SYMBOL_BYTES = 1440
"""Payload of a SOURCE or REPAIR: with IPv4 and UDP headers 1,484 bytes, within an Ethernet MTU of 1,500."""
HEADER_BYTES = 16
PACKET_BYTES = HEADER_BYTES + SYMBOL_BYTES


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


class Reject(StrEnum):
    """Why a datagram was counted and dropped."""

    NOT_OURS = "not a datagram of the cast"
    OTHER_SESSION = "of another session"
    UNKNOWN_RECEIVER = "of a receiver that was not admitted"
    OUT_OF_RANGE = "of a block, symbol or row that does not exist"
    UNSOLICITED = "not expected now"
