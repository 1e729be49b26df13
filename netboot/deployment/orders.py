"""What an administrator asks for: deploy, capture, cancel."""

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from imager.errors import ImagerError
from imager.image.manifest import Manifest
from imager.wire.messages import After, TaskKind, TaskResult
from imager.wire.session import SlowPolicy
from netboot.config import DATA_PORTS, CastNetwork, cast_group
from netboot.deployment.grouping import CastInterface, choose_interface, choose_interface_again, plan_tasks
from netboot.deployment.images import Images
from netboot.deployment.live import Changes
from netboot.deployment.outcomes import Casts, Clock, Outcomes
from netboot.deployment.records import Machine, NewSession, NewTask, Session, TaskRecord
from netboot.deployment.states import OPEN_TASK_STATES
from netboot.deployment.targets import check_targets
from netboot.deployment.way_home import WAYS
from netboot.errors import ConflictError, UserError
from netboot.model import TaskState, Way
from netboot.persistence.database import Database
from netboot.persistence.machines import MachineRepository
from netboot.persistence.sessions import SessionRepository

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeployOrder:
    """One image onto some machines."""

    image: str
    version: int | None
    """None: the latest."""
    to: Sequence[str]
    """Names, MACs, groups, or `all`."""
    target: str = ""
    """Device; empty: each machine's only disk."""
    min_receivers: int = 0
    """0: all of them."""
    max_wait_s: float = 120.0
    max_bitrate_bps: int = 0
    slow: SlowPolicy = SlowPolicy.DEMOTE
    floor_bps: int = 0
    unicast: bool = False
    after: After = After.REBOOT


class Orders:
    """Turns orders into sessions and tasks."""

    def __init__(
        self,
        database: Database,
        machines: MachineRepository,
        sessions: SessionRepository,
        images: Images,
        casts: Casts,
        outcomes: Outcomes,
        changes: Changes,
        clock: Clock,
        cast_network: CastNetwork,
        data_port_base: int,
        interfaces: Sequence[CastInterface],
    ) -> None:
        """`interfaces`: those that sessions can be sent on, at least one."""
        self._database = database
        self._machines = machines
        self._sessions = sessions
        self._images = images
        self._casts = casts
        self._outcomes = outcomes
        self._changes = changes
        self._clock = clock
        self._cast_network = cast_network
        self._data_port_base = data_port_base
        self._interfaces = interfaces

    async def deploy(self, order: DeployOrder) -> tuple[Session, list[TaskRecord]]:
        """Open a session and give each machine its task. Raises UserError; then nothing has changed."""
        machines = await self._database.run(self._machines.resolve, order.to)
        manifest = await self._images.manifest(order.image, order.version)
        if order.min_receivers > len(machines):
            raise UserError(f"min-receivers {order.min_receivers} is more than the {len(machines)} machines named")
        check_targets(machines, order.target, manifest)
        interface = choose_interface(machines, self._interfaces)
        number = secrets.randbelow(2**32 - 1) + 1
        new = NewSession(
            number=number,
            image=manifest.name,
            version=manifest.version,
            manifest_hash=manifest.hash.hex(),
            group=str(cast_group(self._cast_network, number)),
            data_port=self._data_port_base + number % DATA_PORTS,
            min_receivers=order.min_receivers,
            max_wait_s=order.max_wait_s,
            max_bitrate_bps=order.max_bitrate_bps,
            slow=order.slow,
            floor_bps=order.floor_bps,
            unicast=order.unicast,
            interface=interface.name,
        )
        tasks = plan_tasks(machines, manifest.name, manifest.version, order.target, order.after)
        session, records = await self._database.run(self._sessions.create_session, new, tasks, self._clock.wall())
        log.info("session opened", session=session.id, image=session.image, machines=[task.machine for task in records])
        await self._open(session, manifest, records, interface)
        for task in records:
            self._changes.call(task.machine_id)
        self._changes.tell()
        return session, records

    async def resume(self) -> None:
        """Open the senders of sessions that an earlier run left unfinished."""
        for session in await self._database.run(self._sessions.open_sessions):
            tasks = await self._database.run(self._sessions.tasks, session_id=session.id, limit=100_000)
            open_tasks = [task for task in tasks if task.state in OPEN_TASK_STATES]
            if not open_tasks:
                # The appliance died between the end of the last task and that of the session.
                await self._outcomes.settle(session.id)
                continue
            try:
                manifest = await self._images.manifest(session.image, session.version)
                machines = await self._database.run(self._machines.resolve, [task.machine for task in open_tasks])
            except (UserError, ImagerError) as error:
                await self._outcomes.fail_session(session.id, f"it cannot be resumed: {error}")
                continue
            # A machine that moved meanwhile fails by itself when it asks for its task.
            interface = choose_interface_again(session.interface, machines, self._interfaces)
            log.info("session resumed", session=session.id, image=session.image, machines=len(open_tasks))
            with contextlib.suppress(ImagerError):
                await self._open(session, manifest, open_tasks, interface)

    async def capture(self, machine: str, image: str, source: str, after: After) -> TaskRecord:
        """Give a machine the task to read its disk into the next version of an image."""
        found = await self._database.run(self._machines.find, machine)
        new = NewTask(found.id, TaskKind.CAPTURE, image, after, device=source)
        task = await self._database.run(self._sessions.create_task, new, self._clock.wall())
        self._changes.call(found.id)
        self._changes.tell()
        return task

    async def rename(self, machine: str, name: str) -> Machine:
        """Give a machine another name. Raises UnknownError and ConflictError."""
        renamed = await self._database.run(self._machines.rename, machine, name)
        self._changes.tell()
        return renamed

    async def set_boot_way(self, machine: str, way: Way | None) -> Machine:
        """Which way a machine takes to its disk first; None: what works on its model. UserError: it cannot go there."""
        known = await self._database.run(self._machines.find, machine)
        able = WAYS[known.inventory.firmware]
        if way is not None and way not in able:
            raise UserError(f"{known.name} boots by {known.inventory.firmware}: it can go by {' or '.join(able)}")
        changed = await self._database.run(self._machines.set_boot_way, machine, way)
        self._changes.tell()
        return changed

    async def set_groups(self, machine: str, add: Sequence[str], remove: Sequence[str]) -> Machine:
        """Put a machine into groups and take it out of others."""
        changed = await self._database.run(self._machines.set_groups, machine, add, remove)
        self._changes.tell()
        return changed

    async def set_members(self, group: str, machines: Sequence[str], *, remove: bool) -> list[Machine]:
        """Put machines into a group or take them out of it, all or none."""
        changed = await self._database.run(self._machines.set_members, group, machines, remove=remove)
        self._changes.tell()
        return changed

    async def cancel_task(self, task_id: int) -> TaskRecord:
        """End a task that is pending or running. Raises ConflictError when it has ended."""
        task = await self._database.run(self._sessions.task, task_id)
        return await self._outcomes.end(task, TaskState.CANCELLED, TaskResult(False, "cancelled", ()))

    async def cancel_session(self, session_id: int) -> Session:
        """Cancel every open task of a session, which ends it."""
        session = await self._database.run(self._sessions.session, session_id)
        tasks = await self._database.run(self._sessions.tasks, session_id=session_id, limit=100_000)
        open_tasks = [task for task in tasks if task.state in OPEN_TASK_STATES]
        if not open_tasks:
            raise ConflictError(f"session {session_id} is {session.state} already")
        for task in open_tasks:
            try:
                await self.cancel_task(task.id)
            except ConflictError:
                log.info("task had ended before", task=task.id)
        return await self._database.run(self._sessions.session, session_id)

    async def _open(
        self, session: Session, manifest: Manifest, tasks: Sequence[TaskRecord], interface: CastInterface
    ) -> None:
        try:
            await self._casts.open(session, manifest, [task.receiver for task in tasks], str(interface.address))
        except Exception as error:
            await self._outcomes.fail_session(session.id, f"the sender did not start: {error}")
            raise
