"""`roomcast send` and `roomcast receive` as programs, between namespaces."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from netns import INTERFACE, Host, Lan

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


def test_pipe_reaches_a_pipe_sealed_with_a_key_and_programs_can_follow_it(tmp_path: Path) -> None:
    content = random.Random(12).randbytes(5_000_001)
    key, other = tmp_path / "key", tmp_path / "other"
    key.write_bytes(random.Random(13).randbytes(32))
    other.write_bytes(random.Random(14).randbytes(32))
    with Lan(3) as lan:
        sender, receiver, stranger = lan.hosts

        def receive(host: Host, key: Path) -> "subprocess.Popen[bytes]":
            options = ["-i", INTERFACE, "--key", str(key), "--json", "--max-wait", "4"]
            command = host.command(ROOMCAST, "receive", "--output", "-", *options)
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

        good, bad = receive(receiver, key), receive(stranger, other)
        try:
            done = subprocess.run(
                sender.command(ROOMCAST, "send", "-", "-i", INTERFACE, "--key", str(key), "--json", "--fec", "5"),
                input=content,
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            got, said = good.communicate(timeout=60)
            assert good.returncode == 0 and got == content
            nothing, refused = bad.communicate(timeout=60)
            assert bad.returncode == 1 and nothing == b""
        finally:
            good.kill()
            bad.kill()
    events = [json.loads(line) for line in done.stdout.splitlines()]
    whats = [event["event"] for event in events if event["event"] != "progress"]
    assert whats == ["joined", "probed", "done", "sent"]
    assert events[-1]["receivers_done"] == 1
    assert events[-1]["sent_bytes"] > 1.04 * len(content)  # 5 % more, unasked
    assert json.loads(said.splitlines()[-1])["event"] == "received"
    told = [json.loads(line) for line in refused.splitlines() if line.startswith(b"{")]
    assert any("has another key than this --key" in event.get("text", "") for event in told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data-address", "10.1.2.3"], "10.1.2.3 is no multicast group: take one of 239.0.0.0/8"),
        (["--data-address", "239.128.0.5"], "every switch floods"),
        (["--data-address", "ff02::1"], "take ff12::a000:5"),
        (["-6", "--data-address", "239.77.5.5"], "239.77.5.5 is a group of IPv4, and IPv6 is asked for"),
        (["--key", "/dev/null"], "head -c 32 /dev/urandom"),
        (["--interface", "none"], "there is no interface none"),
    ],
    ids=["no group", "flooded group", "assigned group", "two versions", "no key", "no interface"],
)
def test_option_that_cannot_be_is_one_line_that_says_what_to_do(options: list[str], told: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    done = subprocess.run([ROOMCAST, "send", str(file), *options], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("roomcast: ") and done.stderr.count("\n") == 1
    assert told in done.stderr
