"""How what the disk lacks comes to this machine: by casts, one after the other, or by unicast, until it is all there.

A cast may end before it gave everything: its sender, or the whole appliance, was started again, or the network was
away. Then the appliance is asked anew, with what is lacking by then; what is on the disk is not read again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imager.agent.intake import Target, take_in, workers_bytes
from imager.agent.tasks import TaskContext
from imager.agent.unicast import UnicastSource
from imager.errors import CastError, GroupUnheard
from imager.image.manifest import Manifest
from imager.image.plan import build_bitmap
from imager.multicast.memory import divide_memory
from imager.transport.interfaces import address_for, interface_of
from imager.transport.receive import PreparedReceiver, ReceiveProcess
from imager.transport.workers import Source
from imager.wire.groups import is_ipv6
from imager.wire.messages import CastAddress

SENDER_TIMEOUT_S = 60
MOST_FRUITLESS = 6
"""Admissions in a row that brought no chunk: a sender that was started again brings some."""
PAUSE_S = 0.5
"""Before the appliance is asked again, doubled each time that nothing came: a room of machines asks at once."""


@dataclass(slots=True)
class Counters:
    """What all casts of one task brought."""

    received_bytes: int = 0
    repair_packets: int = 0
    lost_packets: int = 0


class Reception:
    """One task's receiving. `run` returns when every chunk that was lacking is on the target."""

    def __init__(
        self,
        context: TaskContext,
        manifest: Manifest,
        target: Target,
        lacking: Sequence[int],
        memory_bytes: int,
        take_prepared: Callable[[], PreparedReceiver | None],
    ) -> None:
        """`memory_bytes` bounds what receiving takes; `take_prepared` gives a process that waits for its cast."""
        self._context = context
        self._manifest = manifest
        self._target = target
        self._lacking = set(lacking)
        self._memory_bytes = memory_bytes
        self._take_prepared = take_prepared
        self._counters = Counters()
        self._unheard = False

    def run(self) -> Counters:
        """Raises CastError when nothing comes, however often the appliance is asked, and what `take_in` raises."""
        context = self._context
        fruitless = 0
        while True:
            before = len(self._lacking)
            try:
                self._receive_once()
            except GroupUnheard as problem:
                self._unheard = True
                context.say(f"{problem}; asking the appliance for another way")
            except CastError as problem:
                context.check_wanted()
                fruitless = 0 if len(self._lacking) < before else fruitless + 1
                if fruitless == MOST_FRUITLESS:
                    raise
                context.say(f"{problem}; asking the appliance again")
                context.meter.note("waits for the appliance")
                context.gone.wait(PAUSE_S * 2**fruitless)
                context.check_wanted()
            else:
                context.meter.note("")
                return self._counters

    def _receive_once(self) -> None:
        context = self._context
        bitmap = build_bitmap(sorted(self._lacking), len(self._manifest.chunks))
        admission = context.client.ready(context.task_id, bitmap, self._unheard)
        context.meter.note(admission.reason)
        if not self._lacking:
            return
        if admission.cast is not None:
            self._receive_cast(admission.cast, bitmap)
        elif admission.unicast:
            context.say(f"by unicast: {admission.reason}")
            self._take_in(UnicastSource(self._fetch, sorted(self._lacking)), self._lacking.discard)
        else:
            raise CastError("the appliance tells no way to the image")

    def _receive_cast(self, cast: CastAddress, bitmap: bytes) -> None:
        context = self._context
        process = ReceiveProcess(
            cast,
            self._own_address(cast.group),
            self._manifest.stored_lengths,
            bitmap,
            memory=divide_memory(self._memory_bytes, workers_bytes(self._manifest)),
            sender_timeout_s=SENDER_TIMEOUT_S,
            prepared=self._take_prepared(),
        )
        reason = "the agent failed"
        context.meter.note("waits for the cast to begin")
        context.listen(cast.session)
        try:
            process.start()
            self._take_in(process, self._took_of_cast)
            process.done()
        except BaseException as error:
            reason = str(error) or type(error).__name__
            raise
        finally:
            context.listen(0)
            process.stop(reason)
            counted = process.statistics()
            self._counters.received_bytes += counted.received_bytes
            self._counters.repair_packets += counted.repair_packets
            self._counters.lost_packets += counted.lost_packets

    def _own_address(self, group: str) -> str:
        """Raises GroupUnheard when this machine has none that goes with the group."""
        own = self._context.link.address
        if not is_ipv6(group):
            return own
        try:
            return address_for(group, interface_of(own))
        except CastError as error:
            raise GroupUnheard(str(error)) from error

    def _fetch(self, index: int) -> bytes:
        stored = self._context.client.chunk(self._context.task_id, self._manifest.chunks[index].hash)
        self._counters.received_bytes += len(stored)
        return stored

    def _took_of_cast(self, index: int) -> None:
        self._context.meter.note("")
        self._lacking.discard(index)

    def _take_in(self, source: Source, took: Callable[[int], None]) -> None:
        take_in(_Noting(source, took), self._manifest, self._target, self._context)


class _Noting:
    """A source that tells which of its chunks were taken."""

    def __init__(self, source: Source, taken: Callable[[int], None]) -> None:
        self._source = source
        self._taken = taken
        self.chunks = source.chunks

    def release(self, index: int, ok: bool) -> None:
        if ok:
            self._taken(index)
        self._source.release(index, ok)
