"""A run of the lab leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from classroom.errors import LabError
from classroom.network import SERVER_ADDRESS, Classroom
from classroom.processes import PACKAGES, BackgroundProcess, run_contained
from classroom.run import KEPT_LOGS, NETNS, Run, remove_dead_runs

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CHILD = """
import sys, time
from pathlib import Path
from classroom.network import Classroom
from classroom.processes import BackgroundProcess
from classroom.run import Run
with Run(Path(sys.argv[1])) as run, Classroom(run) as classroom:
    classroom.set_loss(classroom.add_port(), 5)
    with BackgroundProcess("sleep", ["sleep", "1000"], log=run.logs / "sleep.log", namespace=classroom.server):
        print(run.name, flush=True)
        time.sleep(1000)
"""


def start_child(cache: Path) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    while not inhabitants(name):  # the child's process is on its way into the namespace
        assert child.poll() is None
        time.sleep(0.02)
    return child, name


def namespaces_of(name: str) -> list[str]:
    return [path.name for path in NETNS.glob(f"{name}-*")]


def inhabitants(name: str) -> list[str]:
    found = []
    for namespace in namespaces_of(name):
        found += subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout.split()
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_an_interrupted_run_stays(tmp_path: Path, number: signal.Signals) -> None:
    child, name = start_child(tmp_path)
    assert len(namespaces_of(name)) == 2
    assert inhabitants(name)
    child.send_signal(number)
    child.wait(20)
    if number is signal.SIGKILL:
        assert remove_dead_runs(tmp_path / "runs") == [name]
    assert namespaces_of(name) == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_living_run_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    child, name = start_child(tmp_path)
    try:
        assert remove_dead_runs(tmp_path / "runs") == []
        assert inhabitants(name)
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(20)


def test_what_a_run_mounted_below_its_directory_is_unmounted(tmp_path: Path) -> None:
    with Run(tmp_path) as run:
        point = run.directory / "mounted"
        point.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(point)], check=True)
        disk = run.directory / "disk"
        disk.write_bytes(bytes(1 << 20))
        loop = subprocess.run(["losetup", "--find", "--show", str(disk)], capture_output=True, text=True, check=True)
    assert str(point) not in Path("/proc/mounts").read_text()
    assert loop.stdout.strip() not in subprocess.run(["losetup", "-nlO", "NAME"], capture_output=True, text=True).stdout
    assert not run.directory.exists()


def test_an_interrupted_build_takes_all_its_descendants_along(tmp_path: Path) -> None:
    mark = f"roomcast-lab-test-{os.getpid()}"
    command = ["sh", "-c", f"(exec -a {mark} sleep 1000) & touch started; wait"]
    script = (
        "import sys; from pathlib import Path; from classroom.processes import run_contained;"
        "run_contained(['bash', '-c', sys.argv[1]], log=Path('log'), temporary=Path('tmp'))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, command[2]],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    while not (tmp_path / "started").exists() or not lives(mark):
        assert child.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    child.wait(20)
    assert not lives(mark)


def lives(mark: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[0] == mark.encode():
                return True
        except OSError:
            continue
    return False


def test_a_build_that_fails_tells_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="ended with 3") as caught:
        run_contained(["sh", "-c", "echo no package; exit 3"], log=tmp_path / "log", temporary=tmp_path / "tmp")
    assert caught.value.log == "no package"


def test_a_process_that_ended_early_is_noticed_with_its_output(tmp_path: Path) -> None:
    with BackgroundProcess("server", ["sh", "-c", "echo port in use; exit 1"], log=tmp_path / "log") as process:
        deadline = time.monotonic() + 10
        with pytest.raises(LabError, match="server ended with 1") as caught:
            while time.monotonic() < deadline:
                process.check()
        assert caught.value.log == "port in use"


def test_loss_takes_its_share_of_the_packets_to_one_port_only(tmp_path: Path) -> None:
    with Run(tmp_path) as run, Classroom(run) as classroom:
        lossy, clean = classroom.add_port(), classroom.add_port()
        classroom.set_loss(lossy, 20)
        classroom.set_loss(clean, 0)
        # A tap takes packets only while a program has it open.
        openers = [
            BackgroundProcess(
                p.tap, [sys.executable, "-c", OPEN_TAP, p.tap], log=run.logs / p.tap, namespace=classroom.room
            )
            for p in (lossy, clean)
        ]
        with openers[0], openers[1]:
            while any(not (run.logs / p.tap).exists() or not (run.logs / p.tap).read_text() for p in (lossy, clean)):
                time.sleep(0.02)
            subprocess.run(
                ["nsenter", f"--net={NETNS / classroom.server}", sys.executable, "-c", SEND, SERVER_ADDRESS], check=True
            )
            assert 300 < classroom.dropped_packets(lossy) < 500
            assert classroom.dropped_packets(clean) == 0


OPEN_TAP = """
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH", sys.argv[1].encode(), 0x1002))
print("open", flush=True)
while True:
    os.read(tap, 65536)
"""
SEND = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
for burst in range(50):
    sock.setsockopt(socket.SOL_UDP, 103, 100)
    sock.sendto(bytes(100 * 40), ("224.0.0.99", 5000))
"""


def test_an_interrupted_program_gets_time_to_clean_up(tmp_path: Path) -> None:
    script = (
        "import sys; from classroom.processes import run_program;"
        "run_program(['bash', '-c', 'trap \"sleep 0.2; touch cleaned; exit\" INT; touch started; sleep 1000 & wait'])"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    while not (tmp_path / "started").exists():
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.wait(20)
    assert (tmp_path / "cleaned").exists()


@pytest.mark.lab
@pytest.mark.timeout(600)
@pytest.mark.parametrize("said", ["golden disk: ", "uefi-1: power on"])
def test_nothing_of_an_interrupted_demo_stays(said: str) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "classroom.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONUNBUFFERED": "1"},
    )
    assert demo.stdout is not None
    output = []
    for line in demo.stdout:
        output.append(line)
        if said in line:
            break
    assert demo.poll() is None, "".join(output)
    demo.send_signal(signal.SIGINT)
    output.append(demo.stdout.read())
    assert demo.wait(60) == 130, "".join(output)
    name = f"rclab-{demo.pid}"
    assert namespaces_of(name) == []
    assert name not in Path("/proc/mounts").read_text()
    assert name not in subprocess.run(["losetup", "-nlO", "BACK-FILE"], capture_output=True, text=True).stdout
    assert [words for words in command_lines() if name in words] == []


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def test_logs_of_the_last_ended_runs_are_kept_and_of_every_run_that_goes_on(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    for number in range(KEPT_LOGS + 3):
        (logs / f"rclab-{number}").mkdir(parents=True)
        os.utime(logs / f"rclab-{number}", (number, number))
    child, name = start_child(tmp_path)
    try:
        os.utime(logs / name, (0, 0))  # it has run for longer than all others
        with Run(tmp_path) as run:
            assert {path.name for path in logs.iterdir()} == {
                *(f"rclab-{number}" for number in range(3, KEPT_LOGS + 3)),
                *(name, run.name),
            }
    finally:
        child.send_signal(signal.SIGINT)
        child.wait()
