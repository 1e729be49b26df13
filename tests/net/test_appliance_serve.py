"""`roomcast serve` as a program on a network of its own, with machines that speak to it as agents do."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from inventories import an_inventory
from netns import INTERFACE, Host, Lan

from imager.errors import CastError
from imager.image.chunks import Compressor, Decompressor
from imager.image.keys import load_or_create_signing_key, public_key_bytes
from imager.image.manifest import Chunk, Extent, ImageKind, Manifest, parse_signed
from imager.image.plan import build_bitmap, count_lacking
from imager.image.store import ImageStore
from imager.transport.receive import ReceiveProcess
from imager.wire.messages import (
    Admission,
    Disk,
    FirmwareKind,
    Progress,
    Proof,
    Registration,
    Task,
    TaskKind,
    TaskResult,
    decode,
    encode,
)
from netboot.cli.client import ApplianceClient

pytestmark = pytest.mark.root

ROOMCAST = str(Path(sys.executable).parent / "roomcast")
WINDOW_BYTES = 1 << 18
WINDOWS = 40
START_S = 60.0


@dataclass
class Served:
    """A running appliance."""

    host: Host
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ROOMCAST_DATA": str(self.data),
            "ROOMCAST_SOCKET": str(self.directory / "api.sock"),
            "COLUMNS": "200",
        }

    def roomcast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command from outside the network's namespace, as an administrator gives it."""
        return subprocess.run(
            [ROOMCAST, *arguments], env=self.environment(), capture_output=True, text=True, timeout=300, check=False
        )

    def json(self, *arguments: str) -> Any:
        done = self.roomcast(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> Any:
        with ApplianceClient(self.directory / "api.sock") as appliance:
            return appliance.get("/api/v1/status")

    def log(self) -> str:
        return (self.directory / "log").read_text()


@contextmanager
def serving(host: Host, directory: Path, *more: str) -> Iterator[Served]:
    """`roomcast serve` on a host, ready to answer."""
    directory.mkdir(exist_ok=True)
    served = Served(host, directory, subprocess.Popen(["true"]))
    with (directory / "log").open("wb") as log:
        served.process = host.popen(
            ROOMCAST, "serve", "--interface", INTERFACE, *more, output=log.fileno(), env=served.environment()
        )
    deadline = time.monotonic() + START_S
    while "Ctrl-C ends it" not in served.log():
        assert served.process.poll() is None, served.log()
        assert time.monotonic() < deadline, served.log()
        time.sleep(0.05)
    try:
        yield served
    finally:
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(20)


def keep_image(data: Path, name: str, seed: int) -> tuple[Manifest, list[bytes]]:
    """Publish an image of random windows beside the appliance, as `roomcast image capture` does."""
    chance = random.Random(seed)
    raws = [chance.randbytes(WINDOW_BYTES // 2) * 2 for _ in range(WINDOWS)]
    store = ImageStore(data / "images", load_or_create_signing_key(data / "keys"))
    compressor = Compressor()
    rows = []
    with store.writer() as writer:
        for window, raw in enumerate(raws):
            digest, frame = blake3(raw).digest(), compressor.compress(raw)
            writer.put(digest, frame, len(raw))
            extent = Extent(window * WINDOW_BYTES, len(raw))
            rows.append(Chunk(window, (extent,), digest, len(raw), len(frame)))
        size = WINDOW_BYTES * WINDOWS
        facts: dict[str, str] = {}
        kind = ImageKind.SECTOR
        manifest = Manifest(name, 0, kind, 1_700_000_000, size, 512, WINDOW_BYTES, (), "none", facts, tuple(rows))
        return writer.publish(manifest), raws


@dataclass
class Machine:
    """A machine's agent, small: HTTP by hand, the real receive process, its disk in memory."""

    host: Host
    server: str
    held: dict[int, bytes] = field(default_factory=dict)
    token: str = ""
    name: str = ""
    sender_timeout_s: float = 60

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        with self.host.entered():
            connection = http.client.HTTPConnection(self.server, 80, timeout=60)
            connection.connect()
        headers = {"authorization": f"Bearer {self.token}"} if self.token else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    def register(self) -> None:
        disk = Disk("/dev/vda", "", f"disk-{self.host.number}", WINDOW_BYTES * WINDOWS, 512, "virtio", False)
        inventory = an_inventory(self.host.mac, address=self.host.ip, firmware=FirmwareKind.UEFI, disks=(disk,))
        status, body = self.ask("POST", "/agent/v1/register", encode(inventory))
        assert status == 200, body
        registration = decode(Registration, body)
        self.token, self.name = registration.token, registration.name

    def take(self, wait_s: float = 30) -> Task:
        status, body = self.ask("GET", f"/agent/v1/task?wait={wait_s}")
        assert status == 200, body
        return decode(Task, body)

    def say(self, task: Task, step: str) -> int:
        progress = encode(Progress(step, 1, 2, 1e6))
        return self.ask("POST", f"/agent/v1/tasks/{task.id}/progress", progress)[0]

    def deploy(self, key: bytes, *, stop_after: int | None = None) -> TaskResult | None:
        """Do the next task; vanish without a word after `stop_after` chunks."""
        task = self.take()
        assert task.kind is TaskKind.DEPLOY and task.deploy is not None
        _, signed = self.ask("GET", f"/agent/v1/tasks/{task.id}/manifest")
        manifest = parse_signed(signed, key)
        assert manifest.hash.hex() == task.deploy.manifest_hash
        count = len(manifest.chunks)
        lacking = build_bitmap((i for i in range(count) if i not in self.held), count)
        skipped = len(self.held)
        status, body = self.ask("POST", f"/agent/v1/tasks/{task.id}/ready", lacking)
        assert status == 200, body
        cast = decode(Admission, body).cast
        assert (cast is not None) == bool(count_lacking(lacking))
        received = repaired = lost = 0
        if cast is not None:
            with self.host.entered():
                process = ReceiveProcess(
                    cast, self.host.ip, manifest.stored_lengths, lacking, sender_timeout_s=self.sender_timeout_s
                )
                process.start()
            try:
                decompressor = Decompressor()
                for i, chunk in enumerate(process.chunks()):
                    if i == stop_after:
                        process._prepared.child.process.kill()  # type: ignore[union-attr]
                        return None
                    row = manifest.chunks[chunk.index]
                    self.held[chunk.index] = decompressor.open(chunk.data, row.raw_bytes, row.hash)
                    chunk.data.release()
                    process.release(chunk.index, True)
                process.done()
                statistics = process.statistics()
                received, repaired = statistics.received_bytes, statistics.repair_packets
                lost = statistics.lost_packets
            finally:
                process.stop()
        hash = manifest.hash.hex()
        proof = Proof(hash, "disk", count, skipped, received, repaired, lost, {"receive": 1.0})
        result = TaskResult(True, "", ("done",), proof)
        status, body = self.ask("POST", f"/agent/v1/tasks/{task.id}/result", encode(result))
        assert status == 204, body
        return result


def all_at_once(*stories: Any) -> None:
    """Run machines side by side; the first failure is the test's."""
    failures: list[BaseException] = []

    def guarded(story: Any) -> None:
        try:
            story()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(story,)) for story in stories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(150)
        assert not thread.is_alive(), "a machine hangs"
    if failures:
        raise failures[0]


def test_two_machines_get_an_image_by_one_cast_with_loss(tmp_path: Path) -> None:
    with Lan(3, loss_percent=1) as lan, serving(lan.hosts[0], tmp_path) as served:
        manifest, raws = keep_image(served.data, "golden", 1)
        key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
        machines = [Machine(host, lan.hosts[0].ip) for host in lan.hosts[1:]]
        for machine in machines:
            machine.register()
        done = served.roomcast("deploy", "golden", "--to", "all")
        assert done.returncode == 0, done.stderr
        all_at_once(*(lambda m=machine: m.deploy(key) for machine in machines))
        session = served.json("session", "show")
        assert session["state"] == "done", session
        assert [task["state"] for task in session["tasks"]] == ["succeeded", "succeeded"]
        for machine in machines:
            assert machine.held == dict(enumerate(raws))
        stored = sum(manifest.stored_lengths)
        assert stored < session["statistics"]["sent_bytes"] < 1.5 * stored, session["statistics"]
        shown = served.roomcast("session", "show", str(session["id"]))
        assert "2 of 2 done" in shown.stdout


def test_machine_that_joins_late_gets_what_it_lacks(tmp_path: Path) -> None:
    with Lan(3) as lan, serving(lan.hosts[0], tmp_path) as served:
        _, raws = keep_image(served.data, "golden", 2)
        key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
        early, late = (Machine(host, lan.hosts[0].ip) for host in lan.hosts[1:])
        early.register()
        late.register()
        done = served.roomcast("deploy", "golden", "--to", f"{early.name},{late.name}", "--min-receivers", "1")
        assert done.returncode == 0, done.stderr
        early.deploy(key)
        assert served.json("session", "show")["state"] == "sending"
        late.held = {index: raw for index, raw in enumerate(raws) if index % 4}
        result = late.deploy(key)
        assert result is not None and result.proof is not None and result.proof.chunks_skipped == 30
        session = served.json("session", "show")
        assert session["state"] == "done"
        assert late.held == dict(enumerate(raws))


def test_machine_that_vanishes_is_failed_after_the_stated_time_and_holds_nobody_up(tmp_path: Path) -> None:
    with Lan(3) as lan, serving(lan.hosts[0], tmp_path, "--silence", "5") as served:
        _, raws = keep_image(served.data, "golden", 3)
        key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
        good, gone = (Machine(host, lan.hosts[0].ip) for host in lan.hosts[1:])
        good.register()
        gone.register()
        watching = subprocess.Popen(
            [ROOMCAST, "deploy", "golden", "--to", good.name, gone.name, "--watch"],
            env=served.environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        all_at_once(lambda: good.deploy(key), lambda: gone.deploy(key, stop_after=3))
        output, _ = watching.communicate(timeout=60)
        assert watching.returncode == 1
        assert f"{gone.name}: machine {gone.name} was silent for" in output
        states = {task["machine"]: task["state"] for task in served.json("session", "show")["tasks"]}
        assert states == {good.name: "succeeded", gone.name: "failed"}
        assert good.held == dict(enumerate(raws))


def test_machine_whose_power_was_cut_goes_on_where_its_disk_is(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        _, raws = keep_image(served.data, "golden", 4)
        key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
        machine = Machine(lan.hosts[1], lan.hosts[0].ip)
        machine.register()
        assert served.roomcast("deploy", "golden", "--to", machine.name).returncode == 0
        assert machine.deploy(key, stop_after=20) is None
        machine.register()
        result = machine.deploy(key)
        assert result is not None and result.proof is not None and result.proof.chunks_skipped == 20
        assert machine.held == dict(enumerate(raws))
        assert served.json("session", "show")["state"] == "done"


def test_leases_machines_and_sessions_outlive_a_restart(tmp_path: Path) -> None:
    with Lan(2) as lan:
        machine = Machine(lan.hosts[1], lan.hosts[0].ip)
        with serving(lan.hosts[0], tmp_path) as served:
            _, raws = keep_image(served.data, "golden", 5)
            key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
            machine.register()
            assert served.roomcast("deploy", "golden", "--to", machine.name).returncode == 0
        with serving(lan.hosts[0], tmp_path) as served:
            assert [found["name"] for found in served.json("machine", "list")] == [machine.name]
            machine.deploy(key)
            assert served.json("session", "show")["state"] == "done"
        assert machine.held == dict(enumerate(raws))
        assert served.process.returncode == 0
        assert not (tmp_path / "api.sock").exists()


def test_appliance_that_was_killed_starts_again_and_goes_on(tmp_path: Path) -> None:
    with Lan(2) as lan:
        machine = Machine(lan.hosts[1], lan.hosts[0].ip)
        with serving(lan.hosts[0], tmp_path) as served:
            _, raws = keep_image(served.data, "golden", 6)
            key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
            machine.register()
            assert served.roomcast("deploy", "golden", "--to", machine.name).returncode == 0
            assert machine.take().kind is TaskKind.DEPLOY
            watching = subprocess.Popen(
                [ROOMCAST, "session", "show", "--watch"],
                env=served.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            with lan.hosts[1].entered(), ApplianceClient(served.directory / "api.sock") as appliance:
                assert next(appliance.stream("/api/v1/sessions/1/events"))["state"] == "waiting"
            served.process.kill()
            served.process.wait(20)
            _, complaint = watching.communicate(timeout=60)
            assert watching.returncode == 1
            assert len(complaint.strip().splitlines()) == 1 and complaint.startswith("roomcast: ")
        with serving(lan.hosts[0], tmp_path) as served:
            machine.deploy(key)
            assert served.json("session", "show")["state"] == "done"
        assert machine.held == dict(enumerate(raws))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_appliance_that_ends_in_the_middle_of_a_cast_goes_on_with_what_is_lacking(
    tmp_path: Path, how: signal.Signals
) -> None:
    """The machine does as its agent: it asks for its task again when its cast ends early.

    An agent learns that from the answers to its heartbeats; this machine has none, and trusts in a short silence.
    """
    with Lan(2) as lan:
        machine = Machine(lan.hosts[1], lan.hosts[0].ip, sender_timeout_s=3)
        results: list[TaskResult | None] = []
        held_then: list[int] = []

        def persist(key: bytes) -> None:
            for _ in range(5):
                try:
                    results.append(machine.deploy(key))
                    return
                except (CastError, OSError, http.client.HTTPException):
                    held_then.append(len(machine.held))
                    back.wait(60)

        back = threading.Event()
        with serving(lan.hosts[0], tmp_path) as served:
            _, raws = keep_image(served.data, "golden", 6)
            key = public_key_bytes(load_or_create_signing_key(served.data / "keys"))
            machine.register()
            assert served.roomcast("deploy", "golden", "--to", machine.name, "--max-bitrate", "8m").returncode == 0
            story = threading.Thread(target=persist, args=(key,))
            story.start()
            while len(machine.held) < 4:
                assert story.is_alive()
                story.join(0.05)
            served.process.send_signal(how)
            served.process.wait(20)
        with serving(lan.hosts[0], tmp_path) as served:
            back.set()
            story.join(100)
            assert not story.is_alive(), "the machine hangs"
            assert served.json("session", "show")["state"] == "done"
        assert machine.held == dict(enumerate(raws))
        assert len(held_then) == 1 and held_then[0] >= 4
        (result,) = results
        assert result is not None and result.proof is not None and result.proof.chunks_skipped == held_then[0]


def test_second_serve_and_ports_in_use_are_one_line_each(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:

        def second(*arguments: str, host: Host = lan.hosts[0]) -> str:
            done = subprocess.run(
                host.command(ROOMCAST, "serve", *arguments),
                env=served.environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 1, done.stderr
            lines = [line for line in done.stderr.splitlines() if line.startswith("roomcast:")]
            assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
            return lines[0]

        assert "serves e0 already" in second("--interface", INTERFACE)
        assert "uses" in second("--interface", INTERFACE, host=lan.hosts[1])
        assert "no interface nosuch0" in second("--interface", "nosuch0")
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(20) == 0
        lan.hosts[0].popen(sys.executable, "-m", "http.server", "80", "--bind", lan.hosts[0].ip)
        listening = f"{lan.hosts[0].ip}:80"
        deadline = time.monotonic() + 20
        while listening not in lan.hosts[0].run("ss", "-ltn"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert f"port 80 on {lan.hosts[0].ip} is in use" in second("--interface", INTERFACE)


def test_agents_port_survives_junk_and_page_is_not_on_the_network(tmp_path: Path) -> None:
    with Lan(2) as lan, serving(lan.hosts[0], tmp_path) as served:
        chance = random.Random(7)
        with lan.hosts[1].entered():
            import socket

            for _ in range(20):
                with socket.create_connection((lan.hosts[0].ip, 80), timeout=10) as junk:
                    junk.sendall(chance.randbytes(2000))
            with pytest.raises(OSError):
                socket.create_connection((lan.hosts[0].ip, 8670), timeout=3)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as junk:
                for port in (67, 69):
                    for _ in range(20):
                        junk.sendto(chance.randbytes(300), (lan.hosts[0].ip, port))
        Machine(lan.hosts[1], lan.hosts[0].ip).register()
        deadline = time.monotonic() + 20
        while (counters := served.status()["counters"])["tftp"]["junk"] < 20:  # TFTP's process tells them now and then
            assert time.monotonic() < deadline, counters
        assert counters["dhcp"]["junk"] == 20 and counters["tftp"]["junk"] == 20
        assert len(served.json("machine", "list")) == 1
        page = lan.hosts[0].run("curl", "-sS", "http://127.0.0.1:8670/")
        assert "Dashboard" in page and "pc-" in page
        assert "Traceback" not in served.log()
