"""`roomcast serve` with the rights that packaging/roomcast.service gives it, and no more."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from netns import INTERFACE, Lan

pytestmark = pytest.mark.root

ROOMCAST = str(Path(sys.executable).parent / "roomcast")
UNIT = Path(__file__).parents[2] / "packaging" / "roomcast.service"
NOBODY = 65534
START_S = 60.0


def unit_capabilities() -> list[str]:
    found = re.search("^AmbientCapabilities=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert found
    return [name.removeprefix("CAP_").lower() for name in found[1].split()]


def test_service_without_root_gives_addresses_and_files(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    for directory in (state, run):
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY, NOBODY)
    # The last one for the sake of an interpreter below somebody's home directory: it reads, and writes nothing.
    rights = ",".join(f"+{name}" for name in [*unit_capabilities(), "dac_read_search"])
    setpriv = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps=-all,{rights}", f"--ambient-caps=-all,{rights}", f"--bounding-set=-all,{rights}"),
    ]
    log = tmp_path / "log"
    with Lan(2, checksum_offload=False) as lan, log.open("wb") as output:
        server, client = lan.hosts
        environment = {
            **os.environ,
            "ROOMCAST_DATA": str(state / "data"),
            "ROOMCAST_SOCKET": str(run / "api.sock"),
            "HOME": str(state),
        }
        process = server.popen(
            *setpriv, "--", ROOMCAST, "serve", "--interface", INTERFACE, output=output.fileno(), env=environment
        )
        deadline = time.monotonic() + START_S
        while "Ctrl-C ends it" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        uid = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        assert uid and int(uid[1]) == NOBODY
        script = tmp_path / "script"
        script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "bound to $ip"\nexit 0\n')
        script.chmod(0o755)
        client.run("ip", "addr", "flush", "dev", INTERFACE)
        told = client.run("busybox", "udhcpc", "-f", "-n", "-q", "-i", INTERFACE, "-s", str(script), "-t", "8")
        assert "bound to 10.99.0." in told
        client.run("ip", "addr", "add", "10.99.0.2/24", "dev", INTERFACE)
        fetched = tmp_path / "core.0"
        client.run("curl", "-sSf", "-o", str(fetched), f"tftp://{server.ip}/bios/core.0")
        assert fetched.read_bytes() == (state / "data" / "boot" / INTERFACE / "bios" / "core.0").read_bytes()
        assert all(path.stat().st_uid == NOBODY for path in state.rglob("*"))
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        children = [number for task in tasks for number in (task / "children").read_text().split()]
        statuses = [
            Path(f"/proc/{number}/status").read_text()
            for number in children
            if b"tftp_process" in Path(f"/proc/{number}/cmdline").read_bytes()
        ]
        assert len(statuses) == 1
        assert len(re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\s+0+$", statuses[0], re.MULTILINE)) == 4, statuses[0]
        # What an administrator makes as root meanwhile is the service's to read and to go on with.
        with tempfile.NamedTemporaryFile(suffix=".img") as disk:  # where everybody may read it
            disk.write(os.urandom(1 << 20))
            disk.flush()
            os.fchmod(disk.fileno(), 0o644)
            capture = [ROOMCAST, "image", "capture", disk.name, "--name", "golden"]
            for command in (capture, [*setpriv, "--", *capture]):
                told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
                assert told.returncode == 0, told.stderr
                assert {path.stat().st_uid for path in state.rglob("*")} == {NOBODY}
        assert "golden" in server.run("curl", "-sS", "http://127.0.0.1:8670/images")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
