"""The receiving end of a file cast: finds a sender, takes the chunks that are cast, or fetches them by TCP."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from blake3 import blake3

from imager.errors import CastError, GroupUnheard, TargetError
from imager.multicast.events import ReceiveStatistics
from imager.multicast.memory import divide_memory
from imager.transport.catalogue import Catalogue, Choose, ChunkConnection, stored_lengths
from imager.transport.discovery import Finder, Found
from imager.transport.file_cast import (
    STREAM,
    FileCastNote,
    FileCastProgress,
    NoteCallback,
    ProgressCallback,
    ReceiveOptions,
    ReceiveResult,
    ignore,
)
from imager.transport.file_sink import PartFile, Sink, StreamSink
from imager.transport.own_end import OwnEnd, find_own_end
from imager.transport.receive import PreparedReceiver, ReceivedChunk, ReceiveProcess
from imager.transport.workers import Storing, Take, take_chunks
from imager.wire.groups import is_ipv6

_WORKERS = 2
_SILENT_S = 6.0
"""Of a sender that has sent: then another sender of the file is looked for, and this one, should it be back."""
_LOOK_S = 20.0
"""For what an earlier try left: the sender waits meanwhile. What was not looked at comes again."""
_MAX_WRONG = 5
"""A chunk that arrives wrong so often is wrong at its source."""


def receive_file(
    output: Path,
    options: ReceiveOptions | None = None,
    on_progress: ProgressCallback | None = None,
    on_note: NoteCallback | None = None,
) -> ReceiveResult:
    """Receive the file that a sender announces.

    `output` appears whole or not at all, and must not exist; STREAM, standard output, gets it in order while it comes.
    Raises TargetError for an output that cannot be written, CastError when no sender came, or it fell silent.
    """
    options = options or ReceiveOptions()
    if output != STREAM:
        if output.exists():
            raise TargetError(f"{output} exists; remove it, or choose another name")
        if not output.parent.is_dir():
            raise TargetError(f"there is no directory {output.parent}; make it first")
    return _Receiving(output, options, on_progress or ignore, on_note or ignore).run()


class _Receiving:
    def __init__(self, output: Path, options: ReceiveOptions, tell: ProgressCallback, note: NoteCallback) -> None:
        self._output = output
        self._options = options
        self._tell = tell
        self._note = note
        self._own = OwnEnd("", "")
        self._prepared: PreparedReceiver | None = None
        self._counted: list[ReceiveStatistics] = []
        """Of each cast."""

    def run(self) -> ReceiveResult:
        options = self._options
        with contextlib.ExitStack() as stack:
            self._prepared = PreparedReceiver()  # comes up while we wait for a sender
            stack.callback(self._close_prepared)
            self._tell(FileCastProgress("discover", 0, 0))
            opened = stack.enter_context(contextlib.ExitStack())
            taking: _Taking | None = None

            def choose(catalogue: Catalogue, hashes: Sequence[bytes]) -> bytes | None:
                nonlocal taking
                opened.close()  # of a sender that could not be used after all
                taking = _Taking(self._sink(opened, catalogue), catalogue, hashes, self._tell)
                if here := taking.take_left():
                    self._note(FileCastNote("resumed", f"{here} of {len(hashes)} chunks are here from an earlier try"))
                return taking.wanted()

            sender, port, catalogue, _ = self._find(options.max_wait_s, choose)
            assert taking is not None, "a sender was found, and told what is wanted"
            began_s = time.monotonic()
            unheard = self._until_whole(sender, port, catalogue, taking)
            taking.sink.drain()
            counted = self._counted
            return ReceiveResult(
                self._output,
                catalogue.file_bytes,
                time.monotonic() - began_s,
                sum(each.received_bytes for each in counted),
                sum(each.repair_packets for each in counted),
                sum(each.lost_packets for each in counted),
                unheard,
            )

    def _find(self, max_wait_s: float, choose: Choose, root: str = "") -> Found:
        """A sender, of this `root` if any; which of its chunks are wanted `choose` says."""
        options = self._options
        finder = Finder(options.key, max_wait_s, lambda text: self._note(FileCastNote("passed over", text)))
        finder.look_for(root, choose)
        if options.sender is None:
            self._own = find_own_end(options.interface)
            return finder.listen(self._own, options.port)
        self._own = find_own_end(options.interface, options.sender)
        return finder.ask(options.sender, options.port)

    def _until_whole(self, sender: str, port: int, catalogue: Catalogue, taking: "_Taking") -> str:
        """Receive from one sender of the file after the other; why multicast did not bring it, if it did not.

        A sender may be killed and started again, or the network be away: what was taken is not sent again.
        """
        while True:
            unheard = "its sender casts nothing" if catalogue.unicast else ""
            try:
                if not unheard:
                    unheard = self._by_cast(sender, catalogue, taking)
                if unheard:
                    self._note(FileCastNote("unicast", f"{unheard}: the file is fetched from {sender} by TCP"))
                    self._by_tcp(sender, port, catalogue, taking)
                return unheard
            except SourceSpoilt:
                raise
            except CastError as error:
                self._note(FileCastNote("waiting", f"{error}; waiting for a sender of the same file"))
                self._tell(FileCastProgress("discover", taking.done_bytes, catalogue.file_bytes))
                try:
                    sender, port, catalogue, _ = self._find(
                        self._options.sender_timeout_s, lambda catalogue, hashes: taking.wanted(), catalogue.root
                    )
                except CastError as none:
                    raise CastError(f"{error}, and no sender of the same file came back: {none}") from error

    def _close_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared.close()

    def _sink(self, stack: contextlib.ExitStack, catalogue: Catalogue) -> Sink:
        if self._output != STREAM:
            return stack.enter_context(PartFile(self._output, catalogue.file_bytes))
        stream = sys.stdout.fileno()
        spool = self._options.spool
        return stack.enter_context(StreamSink(stream, catalogue.file_bytes, catalogue.chunk_bytes, spool))

    def _by_cast(self, sender: str, catalogue: Catalogue, taking: "_Taking") -> str:
        """Empty when everything came; else why nothing comes this way."""
        cast = catalogue.cast
        try:
            own = self._own.address_for(cast.group)
        except CastError as error:
            return str(error)
        if is_ipv6(sender) == is_ipv6(cast.group):  # else it was found by IPv4, and tells its address of IPv6
            cast = dataclasses.replace(cast, sender=sender)
        prepared, self._prepared = self._prepared, None
        lengths = stored_lengths(catalogue.file_bytes, catalogue.chunk_bytes)
        process = ReceiveProcess(
            cast,
            own,
            lengths,
            taking.wanted(),
            memory=divide_memory(self._options.memory_bytes),
            sender_timeout_s=min(_SILENT_S, self._options.sender_timeout_s),
            prepared=prepared,
        )
        try:
            process.start()
            take_chunks(process, taking.make_take, workers=_WORKERS)
            taking.sink.publish()
            process.done()
        except GroupUnheard as error:
            return str(error)
        finally:
            process.stop()
            self._counted.append(process.statistics())
        return ""

    @staticmethod
    def _by_tcp(sender: str, port: int, catalogue: Catalogue, taking: "_Taking") -> None:
        connection = ChunkConnection(sender, port, catalogue)
        with contextlib.closing(connection):
            for index in taking.lacking():
                while not taking.take(ReceivedChunk(index, memoryview(connection.chunk(index))), "fetch"):
                    pass
            taking.sink.publish()
            connection.say_done()


class SourceSpoilt(CastError):
    """What a sender sends is not what its catalogue says: waiting for it again is useless."""


class _Taking:
    """Chunks become parts of the file when their hash holds; others are asked for again."""

    def __init__(self, sink: Sink, catalogue: Catalogue, hashes: Sequence[bytes], tell: ProgressCallback) -> None:
        self.sink = sink
        self._catalogue = catalogue
        self._hashes = hashes
        self._tell = tell
        self._lock = threading.Lock()
        self._done = 0
        self._taken: set[int] = set()
        self._wrong: dict[int, int] = {}

    @property
    def done_bytes(self) -> int:
        return self._done

    def wanted(self) -> bytes | None:
        """A bitmap of what is lacking; None: everything."""
        if not self._taken:
            return None
        from imager.image.plan import build_bitmap  # numpy: this program starts without it

        return build_bitmap(self.lacking(), len(self._hashes))

    def take_left(self) -> int:
        """Chunks that an earlier try left and that are right need not come again; how many."""
        lengths = stored_lengths(self._catalogue.file_bytes, self._catalogue.chunk_bytes)
        end_s = time.monotonic() + _LOOK_S
        for index, length in enumerate(lengths):
            left = self.sink.left(index * self._catalogue.chunk_bytes, length)
            if left and blake3(left).digest() == self._hashes[index]:
                self._taken.add(index)
                self._done += length
            if time.monotonic() > end_s:
                break
        return len(self._taken)

    def lacking(self) -> list[int]:
        return [index for index in range(len(self._hashes)) if index not in self._taken]

    def make_take(self, storing: Storing) -> Take:
        return lambda chunk: self.take(chunk, "receive", storing)

    def take(self, chunk: ReceivedChunk, step: str, storing: Storing = contextlib.nullcontext) -> bool:
        if blake3(chunk.data).digest() != self._hashes[chunk.index]:
            self._note_wrong(chunk.index)
            return False
        with storing():
            self.sink.write(chunk.data, chunk.index * self._catalogue.chunk_bytes)
        with self._lock:
            self._taken.add(chunk.index)
            self._done += len(chunk.data)
            self._tell(FileCastProgress(step, self._done, self._catalogue.file_bytes))
        return True

    def _note_wrong(self, index: int) -> None:
        with self._lock:
            self._wrong[index] = wrong = self._wrong.get(index, 0) + 1
        if wrong >= _MAX_WRONG:
            raise SourceSpoilt(
                f"chunk {index} of {self._catalogue.name} came {_MAX_WRONG} times with a wrong hash; send it anew"
            )
