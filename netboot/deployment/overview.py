"""The state of everything as it is shown: machines, images, sessions and tasks with their progress of this moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from imager.image.store import Summary
from imager.wire.messages import Inventory, Progress, Proof, TaskKind
from imager.wire.session import SlowPolicy
from netboot.deployment.homecoming import Homecoming
from netboot.deployment.images import Images
from netboot.deployment.live import Board, Changes, Pace
from netboot.deployment.outcomes import Clock
from netboot.deployment.records import Event, Machine, Session, TaskRecord
from netboot.deployment.way_home import Tally
from netboot.model import SessionState, TaskState, Way
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task, with how far it is."""

    id: int
    machine: str
    session_id: int | None
    kind: TaskKind
    image: str
    version: int
    state: TaskState
    created_s: float
    started_s: float | None
    ended_s: float | None
    error: str
    progress: Progress | None
    """None while nothing is known."""
    silent_s: float | None
    """Seconds since the machine's last word; None when it does not run."""
    lost_packets: int
    proof: Proof | None
    log: tuple[str, ...]

    @property
    def step(self) -> str:
        """What it does, in a word for a page."""
        if self.state is TaskState.RUNNING:
            return self.progress.step if self.progress else "starting"
        return str(self.state)

    @property
    def percent(self) -> float:
        """Of the present step, 0 to 100."""
        if self.state is TaskState.SUCCEEDED:
            return 100.0
        if self.progress is None or self.progress.total_bytes == 0:
            return 0.0
        return min(100.0, 100 * self.progress.done_bytes / self.progress.total_bytes)


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session with its machines."""

    id: int
    image: str
    version: int
    state: SessionState
    group: str
    data_port: int
    created_s: float
    ended_s: float | None
    min_receivers: int
    max_wait_s: float
    max_bitrate_bps: int
    slow: SlowPolicy
    floor_bps: int
    unicast: bool
    statistics: dict[str, float]
    pace: Pace | None
    """How fast it is sent now; None when it is not."""
    tasks: tuple[TaskView, ...]
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class WayView:
    """A way to the disk, and how often it worked on machines of this model."""

    way: Way
    tally: Tally


@dataclass(frozen=True, slots=True)
class MachineView:
    """A machine with what it does."""

    id: int
    name: str
    groups: tuple[str, ...]
    inventory: Inventory
    registered_s: float
    seen_s: float
    agent_waits: bool
    """Its agent runs and asks for a task at this moment."""
    task: TaskView | None
    """Its last one."""
    boot_way: Way | None
    """To its disk, as an administrator set it; None: what works on its model."""
    ways_home: tuple[WayView, ...]
    """As it tries them, the next first."""


class Overview:
    """Reads; changes nothing."""

    def __init__(
        self,
        database: Database,
        machines: MachineRepository,
        sessions: SessionRepository,
        images: Images,
        board: Board,
        changes: Changes,
        clock: Clock,
        homecoming: Homecoming,
    ) -> None:
        self._homecoming = homecoming
        self._database = database
        self._machines = machines
        self._sessions = sessions
        self._images = images
        self._board = board
        self._changes = changes
        self._clock = clock

    async def machines(self) -> list[MachineView]:
        """Every machine, by name."""
        machines = await self._database.run(self._machines.all)
        tasks = await self._database.run(self._sessions.latest_tasks)
        return [self._machine(machine, tasks.get(machine.id)) for machine in machines]

    async def machine(self, name_or_mac: str) -> MachineView:
        machine = await self._database.run(self._machines.find, name_or_mac)
        tasks = await self._database.run(self._sessions.latest_tasks)
        return self._machine(machine, tasks.get(machine.id))

    async def images(self) -> list[Summary]:
        """Every version of every image."""
        return await self._images.all()

    async def sessions(self, limit: int = 50) -> list[SessionView]:
        """The latest sessions with their tasks, without events, the newest first."""
        sessions = await self._database.run(self._sessions.sessions, limit)
        tasks = await self._database.run(self._sessions.tasks_of, [session.id for session in sessions])
        return [self._session(session, tasks.get(session.id, []), []) for session in sessions]

    async def session(self, session_id: int) -> SessionView:
        session = await self._database.run(self._sessions.session, session_id)
        tasks = await self._database.run(self._sessions.tasks_of, [session_id])
        events = await self._database.run(self._sessions.events, session_id=session_id)
        return self._session(session, tasks.get(session_id, []), events)

    async def tasks(self, *, open_only: bool) -> list[TaskView]:
        return [self.task(task) for task in await self._database.run(self._sessions.tasks, open_only=open_only)]

    async def task_by_id(self, task_id: int) -> TaskView:
        return self.task(await self._database.run(self._sessions.task, task_id))

    async def events(self, limit: int = 30) -> list[Event]:
        return await self._database.run(self._sessions.events, limit=limit)

    def task(self, task: TaskRecord) -> TaskView:
        live = self._board.get(task.id) if task.state is TaskState.RUNNING else None
        return TaskView(
            id=task.id,
            machine=task.machine,
            session_id=task.session_id,
            kind=task.kind,
            image=task.image,
            version=task.version,
            state=task.state,
            created_s=task.created_s,
            started_s=task.started_s,
            ended_s=task.ended_s,
            error=task.error,
            progress=live.progress if live else None,
            silent_s=round(self._clock.monotonic() - live.heard_s, 1) if live else None,
            lost_packets=task.proof.lost_packets if task.proof else live.lost_packets if live else 0,
            proof=task.proof,
            log=task.log,
        )

    def _machine(self, machine: Machine, task: TaskRecord | None) -> MachineView:
        return MachineView(
            id=machine.id,
            name=machine.name,
            groups=machine.groups,
            inventory=machine.inventory,
            registered_s=machine.registered_s,
            seen_s=machine.seen_s,
            agent_waits=self._changes.is_waiting(machine.id),
            task=self.task(task) if task else None,
            boot_way=machine.boot_way,
            ways_home=tuple(WayView(way, tally) for way, tally in self._homecoming.known(machine)),
        )

    def _session(self, session: Session, tasks: Sequence[TaskRecord], events: Sequence[Event]) -> SessionView:
        return SessionView(
            id=session.id,
            image=session.image,
            version=session.version,
            state=session.state,
            group=session.group,
            data_port=session.data_port,
            created_s=session.created_s,
            ended_s=session.ended_s,
            min_receivers=session.min_receivers,
            max_wait_s=session.max_wait_s,
            max_bitrate_bps=session.max_bitrate_bps,
            slow=session.slow,
            floor_bps=session.floor_bps,
            unicast=session.unicast,
            statistics=session.statistics,
            pace=self._board.pace(session.id) if session.state is SessionState.SENDING else None,
            tasks=tuple(self.task(task) for task in tasks),
            events=tuple(events),
        )
