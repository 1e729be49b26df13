"""An address that was acknowledged stays its machine's: through a kill, a power cut, and a clock that jumps."""

import contextlib
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lease_asker import LeaseAsker
from netns import INTERFACE, Lan
from test_appliance_serve import Served, serving

pytestmark = pytest.mark.root

NETWORK = "10.99.0.0/16"
CUTS = 20
NEWCOMERS = 8


def held_in(served: Served) -> dict[str, str]:
    return {lease["mac"]: lease["address"] for lease in served.json("lease", "list") if lease["state"] == "bound"}


def test_no_acknowledged_lease_is_lost_or_given_twice_by_a_kill(tmp_path: Path) -> None:
    with Lan(2, network=NETWORK) as lan, LeaseAsker(lan.hosts[1], lan.hosts[0].ip) as asker:
        with serving(lan.hosts[0], tmp_path) as served:
            asker.start()
            asker.wait_for(150)
            served.process.kill()
            served.process.wait(20)
        asker.stop()
        acked = dict(asker.acked)
        assert len(set(acked.values())) == len(acked)
        with serving(lan.hosts[0], tmp_path) as served:
            held = held_in(served)
            assert [(mac, address, held.get(mac)) for mac, address in acked.items() if held.get(mac) != address] == []
            fresh = {asker.lease(asker.new_mac()) for _ in range(20)}
            assert None not in fresh
            assert fresh.isdisjoint(acked.values())
            for mac, address in list(acked.items())[:5]:
                assert asker.lease(mac) == address


def test_somebody_who_took_an_address_by_himself_keeps_it_and_holds_nobody_up(tmp_path: Path) -> None:
    with Lan(3, network=NETWORK) as lan, LeaseAsker(lan.hosts[1], lan.hosts[0].ip) as asker:
        squatter = lan.hosts[2]
        pool = [f"10.99.200.{number}" for number in range(1, 9)]
        for address in pool[:6]:
            squatter.run("ip", "address", "add", f"{address}/16", "dev", INTERFACE)
        with serving(lan.hosts[0], tmp_path, "--pool", f"{pool[0]}-{pool[-1]}") as served:
            given = [asker.lease(asker.new_mac()) for _ in range(2)]
            assert set(given) == set(pool[6:])
            assert asker.lease(asker.new_mac(), 1.0) is None  # there is no other
            told = [line for line in served.log().splitlines() if "address in use by a stranger" in line]
        for address in pool[:6]:
            assert any(address in line and squatter.mac in line for line in told), served.log()


# A power cut


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def make_file_system(image: Path, size_bytes: int, *command: str) -> Path:
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*command, image], check=True, stdout=subprocess.DEVNULL)
    return image


def test_no_acknowledged_lease_is_lost_by_a_power_cut(tmp_path: Path) -> None:
    """The appliance's disk is a file; a cut is a copy of it at one moment: what is not written yet is not in it.

    Each copy is served by an appliance of its own, where every machine that held a lease at that moment renews it.
    """
    with contextlib.ExitStack() as stack:
        cuts = stack.enter_context(
            mounted(make_file_system(tmp_path / "xfs", 1 << 30, "mkfs.xfs", "-q", "-m", "reflink=1"), tmp_path / "cuts")
        )
        disk = make_file_system(cuts / "disk", 96 << 20, "mkfs.ext4", "-q", "-F")
        home = stack.enter_context(mounted(disk, tmp_path / "home"))
        lan = stack.enter_context(Lan(2, network=NETWORK))
        asker = stack.enter_context(LeaseAsker(lan.hosts[1], lan.hosts[0].ip))
        acked_at: list[dict[str, str]] = []
        with serving(lan.hosts[0], home):
            asker.start()
            for number in range(CUTS):
                asker.wait_for(7 + 3 * number % 11)
                acked_at.append(dict(asker.acked))
                subprocess.run(["cp", "--reflink=always", disk, cuts / f"cut-{number}"], check=True)
            asker.stop()
        for number, acked in enumerate(acked_at):
            assert len(set(acked.values())) == len(acked) > number
            with mounted(cuts / f"cut-{number}", tmp_path / "after") as after, serving(lan.hosts[0], after):
                assert asker.renew_all(acked) == acked, f"cut {number} of {CUTS}"
                fresh = {asker.lease(asker.new_mac()) for _ in range(NEWCOMERS)}
                assert None not in fresh and len(fresh) == NEWCOMERS, f"cut {number} of {CUTS}"
                assert fresh.isdisjoint(acked.values()), f"cut {number} of {CUTS}"


# A clock that jumps


MOVED_CLOCK = """
import os, pathlib, time

def shift_s():
    return float(pathlib.Path(os.environ["WALL_CLOCK"]).read_text())

now, now_ns, get = time.time, time.time_ns, time.clock_gettime
time.time = lambda: now() + shift_s()
time.time_ns = lambda: now_ns() + int(shift_s() * 1e9)
time.clock_gettime = lambda clock: get(clock) + (shift_s() if clock == time.CLOCK_REALTIME else 0)
"""


class WallClock:
    """The wall clock of every Python that a test starts, moved while it runs; the kernel's other clocks go on."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._file = directory / "wall-clock"
        (directory / "python").mkdir()
        (directory / "python/sitecustomize.py").write_text(MOVED_CLOCK)
        self.move(0)
        monkeypatch.setenv("PYTHONPATH", str(directory / "python"))
        monkeypatch.setenv("WALL_CLOCK", str(self._file))

    def move(self, seconds: float) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.replace(self._file)


def test_a_wall_clock_that_jumps_gives_no_address_in_use_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the appliance runs, and over its restarts: two hours on, a day back, a week on."""
    clock = WallClock(tmp_path, monkeypatch)
    options = ("--pool", "10.99.200.1-10.99.200.2")
    with Lan(2, network=NETWORK) as lan, LeaseAsker(lan.hosts[1], lan.hosts[0].ip) as asker:
        machines = [asker.new_mac() for _ in range(2)]

        def is_kept() -> None:
            assert asker.lease(asker.new_mac(), 0.7) is None
            assert {mac: asker.lease(mac) for mac in machines} == held
            assert held_in(served) == held

        with serving(lan.hosts[0], tmp_path / "server", *options) as served:
            held = {mac: asker.lease(mac) for mac in machines}
            assert set(held.values()) == {"10.99.200.1", "10.99.200.2"}
            for hours in (2, -24, 7 * 24):
                clock.move(hours * 3600)
                is_kept()
                with contextlib.closing(sqlite3.connect(served.data / "leases.db")) as file:
                    ((saw_s,),) = file.execute("SELECT wall_s FROM clock")
                assert abs(saw_s - time.time() - hours * 3600) < 300  # it did see the jump
        for hours in (2, -24, 7 * 24):
            clock.move(hours * 3600)
            with serving(lan.hosts[0], tmp_path / "server", *options) as served:
                is_kept()
