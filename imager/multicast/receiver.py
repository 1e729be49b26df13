"""The receiving side of a cast: what is taken, what is asked for and when, and when it is lost. Pure.

Data comes in batches of packets as the kernel joined them, everything else one datagram a call. A receiver asks for
what open chunks lack as soon as the sender has passed their blocks, and for whole chunks when the first pass is over
and there is memory for them: this is how losses, a late start, an overrun and a wrong hash are all mended.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from imager.errors import PacketError
from imager.multicast.assembly import Assembly
from imager.multicast.erasure import ErasureCode
from imager.multicast.events import (
    Accepted,
    DoneAcknowledged,
    GroupSilent,
    ReceiverEvent,
    ReceiveStatistics,
    SessionLost,
)
from imager.multicast.layout import BoolArray, CastLayout, IntArray
from imager.multicast.window import SequenceWindow
from imager.wire.packets import (
    FROM_SENDER,
    NACK_RECORD,
    Answer,
    Beacon,
    Control,
    Done,
    Head,
    Join,
    Leave,
    Nack,
    Report,
    Status,
    build_control,
    build_head,
    first_byte_pair,
    kind_of,
    most_nack_records,
    parse_ack,
    parse_beacon,
    parse_head,
)
from imager.wire.seal import AesGcm, ByteArray, Cipher, Opener
from imager.wire.session import BEACON_NUMBER, PACKET_BYTES, Holdup, Kind, Phase, Reject

_JOIN_S = 0.1
"""JOIN is repeated after this, then after longer, up to _JOIN_MAX_S, until it is answered."""
_JOIN_MAX_S = 1.0
STATUS_S = 0.5
"""STATUS comes at least so often..."""
STATUS_INTERVALS = 10
"""...or once in so many of the sender's NACK intervals, once data comes and if that is more often."""
STATUS_FIRST_S = 0.01
"""The first STATUS after the first data comes after this, each further one after 1.5 times as long, up to STATUS_S:
the sender finds its rate by them."""
_DONE_S = 0.02
"""DONE is repeated after this, doubling, DONE_TIMES in all."""
_DONE_TIMES = 8
RETRY_S = 0.05
"""What was asked for is asked for again after this, doubling with every try up to 16 times."""
UNHURRIED_S = 0.04
"""During the first pass NACKs are no more frequent than this: new data is on its way anyway."""
_MAX_NACKS = 8
"""NACK datagrams in one go."""
_PLENTY = 4
"""Memory is short when no more than one slot in so many is free."""
_GROUP_SILENT_S = 1.5
"""Beacons come several times a second: a group silent for so long is a membership that a switch has forgotten (seen:
IGMPv2 reports suppressed, a cable that was pulled)."""
_UNHEARD_S = 8.0
"""A sender that answers, while nothing of its group arrives for so long: there is no multicast to here, or no longer.
The group was joined some times anew meanwhile."""
_ANSWERS_S = 2 * _GROUP_SILENT_S
"""While the group is silent the sender is asked as often as the group is joined: it is there while its answers are no
further apart."""


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    session: int
    receiver: int
    cast_key: bytes = field(repr=False)
    control_key: bytes = field(repr=False)
    sender_timeout_s: float = 60
    """The session is lost when nothing of it arrived for so long."""


def chance(receiver: int, times: int) -> float:
    """0 to 1, another one each time and for each receiver, so that they do not all speak at once: what the first ask
    for mends the others too.
    """
    return ((receiver * 2654435761 + times * 40503) % 65536) / 65536


class ReceiverSession:
    """One receiving. Feed it packets and time; take datagrams and events; release every chunk it hands out."""

    def __init__(
        self,
        layout: CastLayout,
        settings: ReceiverSettings,
        wanted: BoolArray,
        memory: ByteArray,
        code: ErasureCode,
        now: float,
        cipher: Callable[[bytes], Cipher] = AesGcm,
    ) -> None:
        """`memory`: shape (slots, slot bytes), see Assembly."""
        self._layout = layout
        self._settings = settings
        self._assembly = Assembly(layout, wanted, memory, code)
        self._events: list[ReceiverEvent] = []
        self._rejected: Counter[str] = Counter()
        self.cast_cipher = cipher(settings.cast_key)
        """Makes the openers that receive_datagrams wants."""
        self._control_cipher = cipher(settings.control_key)
        self._said = 0  # datagrams to the sender
        self._answer_counter = FROM_SENDER - 1  # of the sender's last answer
        self._beacon_counter = -1
        self._probes = 0
        self._beacons = 0
        self._source_head = _head(Kind.SOURCE, settings.session)
        self._repair_head = _head(Kind.REPAIR, settings.session)
        self._beacon_head = _head(Kind.BEACON, settings.session)
        self._most_records = most_nack_records(layout.packet_bytes)
        self._phase = Phase.WAITING
        self._frontier = 0  # blocks below were sent once
        self._highest = -1  # source symbol number
        self._window = SequenceWindow()
        self._heard = -1  # highest sequence number
        self._received = 0
        self._lost_from: int | None = None  # sequence numbers from here on count as lost when they do not come
        self._early = 0  # received of those before
        self._repairs = 0
        self._nacks = 0
        self._chances = 0
        self._asked_at = np.full(layout.block_count, -1e9)
        self._tries = np.zeros(layout.block_count, np.int32)
        self._nack_interval_s = 0.01
        self._nack_at = now
        self._join_at: float | None = now
        self._join_wait = _JOIN_S
        self._status_at = now + STATUS_S
        self._status_wait = STATUS_S
        self._held_up = Holdup.NONE
        self._told_holdup, self._told_at = Holdup.NONE, now  # by the last STATUS
        self.falls_behind = False
        """The shell finds that packets come faster than they are taken: some were lost in this machine."""
        self._done_at: float | None = None
        self._done_left = 0
        self._farewell: list[bytes] = []
        self._silent_at = now + _GROUP_SILENT_S
        self._group_at = now
        self._group_heard = False
        self._answered_at: float | None = None
        self._answers_since: float | None = None  # while the group is silent
        self.closed = False
        """Nothing more will come out of this session."""

    # what arrives

    def receive_datagrams(self, packets: ByteArray, opener: Opener, now: float) -> None:
        """Packets of the group, shape (n, packet bytes), and an opener for them; they are copied where needed. What the
        sender of this session did not just seal is counted and dropped.
        """
        if self.closed or not len(packets):
            return
        heads = packets[:, :8].view(np.uint64)[:, 0]
        places = packets[:, 8:16].view(">u8")[:, 0].astype(np.int64)
        source = heads == self._source_head
        all_source = np.count_nonzero(source) == len(packets)
        if all_source and self._take_run(places, opener, now):
            return
        batch = _Batch(packets, places >> 32 & _WORD, places & _WORD, opener)
        if all_source:
            self._take_fresh(np.arange(len(packets)), batch, self._take_source, now)
            return
        repair = (heads & _NO_ROW) == self._repair_head
        for which, take in ((source, self._take_source), (repair, self._take_repair)):
            index = np.flatnonzero(which)
            if len(index):
                self._take_fresh(index, batch, take, now)
        for at in np.flatnonzero(~source & ~repair).tolist():
            if heads[at] == self._beacon_head and batch.numbers[at] == BEACON_NUMBER:
                self._open_beacon(packets[at].tobytes(), int(batch.sequences[at]), now)
            else:
                self._rejected[Reject.NOT_OURS] += 1

    def _take_run(self, places: IntArray, opener: Opener, now: float) -> bool:
        """Take a batch of source packets, if nothing is lost, old or out of turn in it: how nearly all come.

        `places`: number and sequence of each, as one number of 64 bits.
        """
        count = len(places)
        number, sequence = divmod(int(places[0]) & _LONG_WORD, 1 << 32)
        if sequence <= self._window.highest or sequence + count > 1 << 32:
            return False
        if number + count > self._layout.symbol_count:
            return False
        if np.count_nonzero(places[1:] - places[:-1] == _NEXT) != count - 1:
            return False
        forged = self._assembly.place_source(number, opener, 0, count)
        sequences = np.arange(sequence, sequence + count)
        if forged:
            self._rejected[Reject.FORGED] += len(forged)
            sequences = np.delete(sequences, forged)
            if not len(sequences):
                return True
            count = int(sequences[-1]) - sequence + 1  # the last that is not forged
        self._note_source(number + count - 1, sequences, now)
        return True

    def _take_fresh(
        self, index: IntArray, batch: "_Batch", take: "Callable[[IntArray, _Batch, float], None]", now: float
    ) -> None:
        """Take those packets of a batch, at `index`, whose sequence was not taken yet."""
        fresh = self._window.fresh(batch.sequences[index])
        if fresh is not None:
            self._rejected[Reject.REPEATED] += int(len(fresh) - np.count_nonzero(fresh))
            index = self._one_of_each(index[fresh], batch)
        if len(index):
            take(index, batch, now)

    def _one_of_each(self, index: IntArray, batch: "_Batch") -> IntArray:
        """Of several packets with one sequence the first that is not forged, which each is opened here to see: taking
        them in turns would make a forged one cost twenty times as much.
        """
        sequences = batch.sequences[index]
        order = np.argsort(sequences, kind="stable")
        same = sequences[order[1:]] == sequences[order[:-1]]
        if not np.count_nonzero(same):
            return index
        keep = np.ones(len(index), np.bool_)
        keep[order[1:][same]] = keep[order[:-1][same]] = False
        proven: set[int] = set()
        for place in np.flatnonzero(~keep).tolist():
            sequence = int(sequences[place])
            if sequence in proven:
                self._rejected[Reject.REPEATED] += 1
            elif batch.opener.open(int(index[place]), 1, None):
                self._rejected[Reject.FORGED] += 1
            else:
                proven.add(sequence)
                keep[place] = True
        return index[keep]

    def _take_source(self, index: IntArray, batch: "_Batch", now: float) -> None:
        numbers = batch.numbers[index]
        if int(numbers.max()) >= self._layout.symbol_count:
            good = numbers < self._layout.symbol_count
            self._rejected[Reject.OUT_OF_RANGE] += int(len(good) - np.count_nonzero(good))
            if not good.any():
                return
            index, numbers = index[good], numbers[good]
        breaks = (numbers[1:] - numbers[:-1] != 1) | (index[1:] - index[:-1] != 1)
        edges = [0, *(breaks.nonzero()[0] + 1).tolist(), len(numbers)]
        forged: list[int] = []
        for start, end in itertools.pairwise(edges):
            forged += self._assembly.place_source(int(numbers[start]), batch.opener, int(index[start]), end - start)
        if forged:
            self._rejected[Reject.FORGED] += len(forged)
            good = ~np.isin(index, forged)
            index, numbers = index[good], numbers[good]
            if not len(index):
                return
        self._note_source(int(numbers.max()), np.sort(batch.sequences[index]), now)

    def _take_repair(self, index: IntArray, batch: "_Batch", now: float) -> None:
        good: list[int] = []
        for at in index.tolist():
            row = int(batch.packets[at, 2]) << 8 | int(batch.packets[at, 3])
            reason = self._assembly.place_repair(int(batch.numbers[at]), row, batch.opener, at)
            if reason is None:
                good.append(at)
            else:
                self._rejected[reason] += 1
        if good:
            self._repairs += len(good)
            self._note_data(np.sort(batch.sequences[good]), now)

    def _note_source(self, highest: int, sequences: IntArray, now: float) -> None:
        """As _note_data, of source packets up to this number."""
        if self._phase is Phase.WAITING:
            self._phase = Phase.SENDING
        self._highest = max(self._highest, highest)
        self._note_data(sequences, now)

    def _note_data(self, sequences: IntArray, now: float) -> None:
        """Packets with these sequences, in ascending order, were proven."""
        if not self._received:
            self._status_wait = max(STATUS_FIRST_S, self._nack_interval_s)
            self._status_at = min(self._status_at, now + self._status_wait)
        self._received += len(sequences)
        self._window.take(sequences)
        self._heard = max(self._heard, self._window.highest)
        self._note_group(now)

    def _note_group(self, now: float) -> None:
        self._group_at = now
        self._group_heard = True
        self._answers_since = None

    def _open_beacon(self, data: bytes, counter: int, now: float) -> None:
        if counter <= self._beacon_counter:
            self._rejected[Reject.REPEATED] += 1
            return
        try:
            body = self.cast_cipher.open(data)
        except PacketError:
            self._rejected[Reject.FORGED] += 1
            return
        self._beacon_counter = counter
        try:
            beacon = parse_beacon(body)
        except PacketError:
            self._rejected[Reject.NOT_OURS] += 1
            return
        self._note_group(now)
        self._take_beacon(beacon, now)

    def _take_beacon(self, beacon: Beacon, now: float) -> None:
        if not self._beacons and self._layout.packet_bytes > PACKET_BYTES:
            self._status_at = min(self._status_at, now)  # the sender waits to know that packets so long arrive
        self._beacons = min(self._beacons + 1, 255)
        if beacon.probe:
            self._probes = min(self._probes + 1, 255)
        self._heard = max(self._heard, beacon.sequence - 1)
        self._frontier = max(self._frontier, min(beacon.frontier, self._layout.block_count))
        self._nack_interval_s = max(beacon.nack_interval_ms, 1) / 1000
        if beacon.phase > self._phase:
            self._phase = beacon.phase
            self._nack_at = min(self._nack_at, now + self._nack_interval_s * self._chance())
        if beacon.phase is Phase.ENDED:
            if self._done_at is not None:
                self._close(DoneAcknowledged())
            elif self._assembly.held_count < self._assembly.to_hold_count:
                self._lose("the sender ended the session before all was received")

    def receive_datagram(self, data: bytes, now: float) -> None:
        """A unicast datagram of the sender."""
        if self.closed:
            return
        try:
            head = parse_head(data)
            if (head.session, head.receiver) != (self._settings.session, self._settings.receiver):
                raise PacketError(Reject.OTHER_SESSION)
            if head.kind is not Kind.ACK:
                raise PacketError(Reject.UNSOLICITED)
            if head.counter <= self._answer_counter:
                raise PacketError(Reject.REPEATED)
            body = self._control_cipher.open(data)
        except PacketError as error:
            self._rejected[str(error)] += 1
            return
        self._answer_counter = head.counter
        try:
            ack = parse_ack(body)
        except PacketError:
            self._rejected[Reject.NOT_OURS] += 1
            return
        self._note_answer(now)
        if ack.of is Kind.DONE and self._done_at is not None:
            self._close(DoneAcknowledged())
        elif ack.answer is Answer.FAILED_BEFORE:
            self._lose("the sender gave this receiver up, as it was silent too long or was removed")
        elif ack.of is Kind.JOIN and self._join_at is not None:
            self._join_at = None
            # What is older and still comes, somebody has sent again: it is neither taken nor a gap before what is new.
            self._lost_from, taken = self._window.begin(ack.sequence)
            self._early = self._received - taken
            self._events.append(Accepted())

    def _note_answer(self, now: float) -> None:
        if self._answers_since is None or self._answered_at is None or now - self._answered_at > _ANSWERS_S:
            self._answers_since = now
        self._answered_at = now

    # commands of the shell

    def release(self, chunk: int, ok: bool, now: float) -> None:
        """Take a chunk's slot back; ok False: it is asked for again. ValueError when it was not handed out."""
        self._assembly.release(chunk, ok)
        if not ok:
            blocks = slice(*self._layout.chunk_first_block[chunk : chunk + 2].tolist())
            self._asked_at[blocks] = -1e9
            self._tries[blocks] = 0
        self._nack_at = min(self._nack_at, now + self._nack_interval_s)

    def held_up(self, by: Holdup) -> None:
        """What the shell's workers say that they wait for."""
        self._held_up = by

    @property
    def holdup(self) -> Holdup:
        """What keeps the memory full, or packets from being taken; NONE while there is enough of both."""
        if self.falls_behind:
            return Holdup.PROCESSOR
        assembly = self._assembly
        return self._held_up if assembly.free_slots * _PLENTY <= assembly.slots else Holdup.NONE

    @property
    def all_held(self) -> bool:
        """Every wanted chunk was released as good."""
        return self._assembly.held_count == self._assembly.to_hold_count

    def finish(self, now: float) -> None:
        """Tell the sender that everything holds: DoneAcknowledged follows, even if no answer comes."""
        if self.closed:
            self._events.append(DoneAcknowledged())
        elif self._done_at is None:
            self._done_at = now
            self._done_left = _DONE_TIMES

    def leave(self, reason: str) -> None:
        """Give up; the sender is told once, by the next datagrams_to_send()."""
        if not self.closed:
            self.closed = True
            self._farewell.append(self._seal(Leave(reason)))

    # what is sent

    def datagrams_to_send(self, now: float) -> list[bytes]:
        """Datagrams for the sender's control port."""
        if self.closed:
            farewell, self._farewell = self._farewell, []
            return farewell
        messages: list[Control] = []
        if self._done_at is not None:
            if now >= self._done_at:
                if not self._done_left:
                    self._close(DoneAcknowledged())
                    return []
                self._done_at = now + _DONE_S * 2 ** (_DONE_TIMES - self._done_left)
                self._done_left -= 1
                messages.append(Done(self.report()))
            return [self._seal(message) for message in messages]
        if self._join_at is not None and now >= self._join_at:
            self._join_at = now + self._join_wait
            self._join_wait = min(self._join_wait * 2, _JOIN_MAX_S)
            messages.append(Join(self._assembly.to_hold_count))
        if now >= self._nack_at:
            records = self._records(now)
            pause = self._nack_interval_s
            if self._phase is not Phase.REPAIRING:
                pause = max(pause, UNHURRIED_S)
            self._nack_at = now + pause * (0.75 + 0.5 * self._chance())
            if len(records):
                self._status_at = max(self._status_at, now + self._status_wait)
            for start in range(0, len(records), self._most_records):
                self._nacks += 1
                messages.append(Nack(self.report(), records[start : start + self._most_records]))
        if self.holdup is not self._told_holdup:
            self._status_at = min(self._status_at, self._told_at + self._nack_interval_s)
        if now >= self._status_at:
            self._told_holdup, self._told_at = self.holdup, now
            self._status_at = now + self._status_wait
            longest = min(STATUS_S, STATUS_INTERVALS * self._nack_interval_s) if self._received else STATUS_S
            self._status_wait = min(self._status_wait * 1.5, longest)
            if self._join_at is None:
                messages.append(Status(self.report()))
        return [self._seal(message) for message in messages]

    def _records(self, now: float) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """What to ask for now: one record a block, lowest first."""
        assembly = self._assembly
        blocks = np.flatnonzero(assembly.open_blocks)
        if self._phase is Phase.REPAIRING and assembly.free_slots:
            more = assembly.lacking_chunks(assembly.free_slots)
            if len(more):
                first, end = self._layout.chunk_first_block[more], self._layout.chunk_first_block[more + 1]
                extra = [np.arange(a, b) for a, b in zip(first.tolist(), end.tolist(), strict=True)]
                blocks = np.concatenate((blocks, *extra))
        if self._phase is Phase.REPAIRING:
            self._frontier = self._layout.block_count
        elif self._highest >= 0:
            self._frontier = max(self._frontier, self._layout.block_of(self._highest))
        blocks = blocks[blocks < self._frontier]
        lacking = assembly.lacking[blocks] - assembly.in_hand[blocks]
        wait = RETRY_S * (1 << np.minimum(self._tries[blocks], 4)) / 2
        due = (lacking > 0) & (now - self._asked_at[blocks] >= wait)
        blocks, lacking = np.sort(blocks[due]), lacking[due][np.argsort(blocks[due], kind="stable")]
        most = _MAX_NACKS * self._most_records
        blocks, lacking = blocks[:most], lacking[:most]
        self._asked_at[blocks] = now
        self._tries[blocks] += 1
        records = np.zeros(len(blocks), NACK_RECORD)
        records["block"] = blocks
        records["lacking"] = lacking
        records["next_row"] = assembly.next_row[blocks]
        return records

    def report(self) -> Report:
        """The counters as they go to the sender."""
        return Report(
            heard=self._heard,
            received=self._received,
            lost=self._lost(),
            dropped=self._assembly.dropped,
            repairs=self._repairs,
            chunks_done=self._assembly.held_count,
            slots=self._assembly.slots,
            free_slots=self._assembly.free_slots,
            holdup=self.holdup,
            probes=self._probes,
            beacons=self._beacons,
        )

    def _seal(self, message: Control) -> bytes:
        head = Head(kind_of(message), self._settings.receiver, self._settings.session, self._said)
        self._said += 1
        return self._control_cipher.seal(build_head(head), build_control(message))

    def _lost(self) -> int:
        if self._lost_from is None:
            return 0
        return max(0, self._heard - self._lost_from + 1 - (self._received - self._early))

    def statistics(self) -> ReceiveStatistics:
        return ReceiveStatistics(
            received_bytes=self._received * self._layout.packet_bytes,
            received_packets=self._received,
            repair_packets=self._repairs,
            lost_packets=self._lost(),
            dropped_packets=self._assembly.dropped,
            duplicate_packets=self._assembly.duplicates,
            nacks=self._nacks,
            chunks_done=self._assembly.held_count,
            holdup=self.holdup,
            rejected=dict(self._rejected),
        )

    # time

    def next_timeout(self) -> float | None:
        """When datagrams_to_send or handle_timeout has something to do, if nothing arrives before."""
        if self.closed:
            return None
        if self._done_at is not None:
            return self._done_at
        times = [self._status_at]
        if not self.all_held:
            times += [self._lost_at()[0], self._silent_at]
            if self._phase is not Phase.WAITING:
                times.append(self._nack_at)
        if self._join_at is not None:
            times.append(self._join_at)
        return min(times)

    def handle_timeout(self, now: float) -> None:
        """Notice a sender that is gone, or a group that is silent; call it when next_timeout() has come."""
        if self.closed or self._done_at is not None or self.all_held:
            return
        if now >= self._silent_at:
            if now - self._group_at >= _GROUP_SILENT_S:
                self._events.append(GroupSilent())
                self._silent_at = now + _GROUP_SILENT_S
                if self._join_at is None:  # is it the group alone? A sender answers each JOIN
                    self._join_at, self._join_wait = now, _JOIN_S
            else:
                self._silent_at = self._group_at + _GROUP_SILENT_S
        lost_at, unheard = self._lost_at()
        if now < lost_at:
            return
        timeout_s = self._settings.sender_timeout_s
        if unheard:
            waited = f"{min(_UNHEARD_S, timeout_s):g} s"
            more = "any more " if self._group_heard else ""
            self._lose(
                f"the sender answers, but none of its multicast packets arrived {more}for {waited}: "
                "check IGMP snooping and the querier of the switches between",
                unheard=True,
            )
        elif self._group_heard or self._answered_at is not None:
            self._lose(f"nothing more came from the sender for {timeout_s:g} s")
        else:
            self._lose(f"no answer from the sender for {timeout_s:g} s")

    def _lost_at(self) -> tuple[float, bool]:
        """When the session is lost if nothing comes before, and whether it is the group alone that is silent then."""
        timeout_s = self._settings.sender_timeout_s
        answered_at = self._group_at if self._answered_at is None else self._answered_at
        if self._answers_since is not None:
            unheard_at = self._answers_since + min(_UNHEARD_S, timeout_s)
            if answered_at + _ANSWERS_S >= unheard_at:
                return unheard_at, True
        return max(self._group_at, answered_at) + timeout_s, False

    def events(self) -> list[ReceiverEvent]:
        events: list[ReceiverEvent] = [*self._assembly.assembled(), *self._events]
        self._events = []
        return events

    def _chance(self) -> float:
        self._chances += 1
        return chance(self._settings.receiver, self._chances)

    def _lose(self, reason: str, unheard: bool = False) -> None:
        if unheard:
            self.closed = True  # without a word: who goes on by unicast is not gone
        else:
            self.leave(reason)
        self._events.append(SessionLost(reason, unheard))

    def _close(self, event: ReceiverEvent) -> None:
        self.closed = True
        self._events.append(event)


def _head(kind: Kind, session: int) -> np.uint64:
    """The first eight bytes of a SOURCE or REPAIR of row 0, as this machine reads them as one number."""
    data = bytes(first_byte_pair(kind)) + bytes(2) + session.to_bytes(4, "big")
    return np.uint64(np.frombuffer(data, np.uint64)[0])


_NEXT = (1 << 32) + 1
"""From one packet to the next that was sent, in number and sequence: see _take_run."""
_WORD = (1 << 32) - 1
_LONG_WORD = (1 << 64) - 1

_NO_ROW = np.uint64(np.frombuffer(b"\xff\xff\0\0\xff\xff\xff\xff", np.uint64)[0])


class _Batch(NamedTuple):
    """Packets of one call; the first index of each array is the packet's."""

    packets: ByteArray
    numbers: IntArray
    sequences: IntArray
    opener: Opener
