"""`roomcast send` and `roomcast receive` as programs, between namespaces."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from netns import INTERFACE, Lan

pytestmark = pytest.mark.root

ROOMCAST = str(Path(sys.executable).parent / "roomcast")


def test_file_reaches_two_receivers_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(11).randbytes(20_000_000))
    with Lan(3, loss_percent=1) as lan:
        outputs = [tmp_path / f"out{number}" for number in (1, 2)]
        receivers = [
            subprocess.Popen(
                host.command(ROOMCAST, "receive", "--output", str(output), "-i", INTERFACE, "--max-wait", "60"),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for host, output in zip(lan.hosts[1:], outputs, strict=True)
        ]
        try:
            said = lan.hosts[0].run(ROOMCAST, "send", str(file), "-i", INTERFACE, "--min-receivers", "2")
            assert said.startswith(f"2 receivers hold file: {len(file.read_bytes())} bytes"), said
            for receiver, output in zip(receivers, outputs, strict=True):
                heard, _ = receiver.communicate(timeout=60)
                assert receiver.returncode == 0, heard
                assert output.read_bytes() == file.read_bytes()
        finally:
            for receiver in receivers:
                receiver.kill()


def test_receiver_without_a_sender_gives_up_in_one_line(tmp_path: Path) -> None:
    with Lan(1) as lan:
        command = lan.hosts[0].command(
            ROOMCAST, "receive", "--output", str(tmp_path / "out"), "-i", INTERFACE, "--max-wait", "0.5"
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("roomcast: ")
    assert not (tmp_path / "out").exists()
