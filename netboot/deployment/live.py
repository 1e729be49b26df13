"""What is known of running tasks right now, and who waits to hear of changes. In memory only.

The database keeps what was asked and how it ended; progress, said every few seconds by each machine, stays here.
"""

import asyncio
from dataclasses import dataclass, replace

from imager.wire.messages import Progress


@dataclass(frozen=True, slots=True)
class LiveTask:
    """The last word of one running task."""

    heard_s: float
    """Monotonic clock."""
    progress: Progress | None = None
    lost_packets: int = 0
    """As the sender counted from the machine's reports."""
    peer: str = ""
    """Address that its last progress came from."""
    begun: bool = True
    """False: handed out, maybe to a machine that was switched off while it asked; nothing was heard of it since."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a session's cast goes."""

    sent_bps: float
    """Bits of frames a second."""
    reason: str
    """Why not faster, for a person."""


class Board:
    """The last word of each running task and each sending session, and the alarm of tasks that went silent."""

    def __init__(self) -> None:
        self._tasks: dict[int, LiveTask] = {}
        self._paces: dict[int, Pace] = {}

    def paced(self, session_id: int, pace: Pace) -> None:
        self._paces[session_id] = pace

    def pace(self, session_id: int) -> Pace | None:
        return self._paces.get(session_id)

    def forget_session(self, session_id: int) -> None:
        self._paces.pop(session_id, None)

    def handed_out(self, task_id: int, now_s: float) -> None:
        """The task was given to who asked for it, who may not be there any more to hear it."""
        old = self._tasks.get(task_id, LiveTask(now_s, begun=False))
        self._tasks[task_id] = replace(old, heard_s=now_s)

    def heard(self, task_id: int, now_s: float, progress: Progress | None = None, peer: str = "") -> None:
        """The machine of this task said something; keep the progress if it told one."""
        old = self._tasks.get(task_id, LiveTask(now_s))
        self._tasks[task_id] = replace(
            old, heard_s=now_s, progress=progress or old.progress, begun=True, peer=peer or old.peer
        )

    def lost(self, task_id: int, packets: int) -> None:
        if (old := self._tasks.get(task_id)) is not None:
            self._tasks[task_id] = replace(old, lost_packets=packets)

    def get(self, task_id: int) -> LiveTask | None:
        return self._tasks.get(task_id)

    def forget(self, task_id: int) -> None:
        self._tasks.pop(task_id, None)

    def silent(self, now_s: float, limit_s: float) -> dict[int, float]:
        """Begun tasks that said nothing for longer than `limit_s`, with the seconds of their silence."""
        return {
            task: now_s - live.heard_s
            for task, live in self._tasks.items()
            if live.begun and now_s - live.heard_s > limit_s
        }


class Changes:
    """Wakes those who show the state, and machines that wait for a task. For one event loop."""

    def __init__(self) -> None:
        self._version = 0
        self._changed = asyncio.Event()
        self._waiting: dict[int, asyncio.Event] = {}
        self.stopping = False
        """Set by `stop`: whoever waits shall end."""

    @property
    def version(self) -> int:
        return self._version

    def tell(self) -> None:
        """Something on show has changed."""
        self._version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def call(self, machine_id: int) -> None:
        """There may be something new to do for this machine."""
        if (event := self._waiting.get(machine_id)) is not None:
            event.set()

    def stop(self) -> None:
        """End all waiting: the appliance goes down."""
        self.stopping = True
        self.tell()
        for event in self._waiting.values():
            event.set()

    async def wait(self, seen: int, timeout_s: float) -> int:
        """The version on show, as soon as it is not `seen`, at the latest after `timeout_s`."""
        if self._version == seen and not self.stopping:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self._version

    async def next(self, seen: int, interval_s: float, silence_s: float) -> int:
        """For a stream: the version after `seen`, not before `interval_s` and not after `silence_s` have passed."""
        if not self.stopping:
            await asyncio.sleep(interval_s)
        return await self.wait(seen, silence_s - interval_s)

    def machine_event(self, machine_id: int) -> asyncio.Event:
        """An event that `call` sets. A second asker of the same machine takes the first one's place."""
        if (old := self._waiting.get(machine_id)) is not None:
            old.set()
        event = asyncio.Event()
        if self.stopping:
            event.set()
        self._waiting[machine_id] = event
        return event

    def is_waiting(self, machine_id: int) -> bool:
        """Whether the machine asks for a task at this moment."""
        return machine_id in self._waiting

    def is_replaced(self, machine_id: int, event: asyncio.Event) -> bool:
        """Whether a later asker took this one's place."""
        return self._waiting.get(machine_id) is not event

    def drop_event(self, machine_id: int, event: asyncio.Event) -> None:
        if self._waiting.get(machine_id) is event:
            del self._waiting[machine_id]
