"""What counts as proof that a machine was imaged."""

from dataclasses import replace
from io import StringIO

import pytest
from classroom.proof import BootedSystem, ImageFacts, MachineProof, find_doubts, parse_booted
from classroom.report import proof_tables
from rich.console import Console

from imager.wire.messages import FirmwareKind, Proof

IMAGE = ImageFacts("golden", 1, "ab" * 32, 40, "01" * 16)


def a_report(chunks: int = 40) -> Proof:
    return Proof("ab" * 32, "LAB-PC1", chunks, 0, 1_000_000, 12, 30, {"scan": 1.5, "receive": 20.0})


def a_machine(name: str = "pc1", seed: str = "a") -> MachineProof:
    booted = BootedSystem(name, seed * 32, "bios", "/dev/vda3", f"AAAAC3{seed}")
    return MachineProof(name, FirmwareKind.BIOS, "LAB-PC1", 40.0, a_report(), "", booted, 30.0, 0)


def test_the_last_proof_line_of_a_serial_log_is_read() -> None:
    first = "ROOMCAST-PROOF hostname=golden machine-id=00 firmware=bios root=/dev/vda3 host-key=none"
    last = "ROOMCAST-PROOF hostname=pc1 machine-id=ff firmware=uefi root=/dev/sda3 host-key=AAAA=="
    text = f"SeaBIOS\n{first}\nreset\n{last}\nlogin:"
    assert parse_booted(text) == BootedSystem("pc1", "ff", "uefi", "/dev/sda3", "AAAA==")


def test_a_proof_line_that_is_still_being_printed_does_not_count() -> None:
    assert parse_booted("ROOMCAST-PROOF hostname=pc1 machine-id=ff firmware=uefi root=/dev/sda3 host-key=AA") is None
    assert parse_booted("ROOMCAST-PROOF hostname=pc1\n") is None


def test_two_machines_with_all_proofs_leave_no_doubt() -> None:
    machines = [a_machine("pc1", "a"), a_machine("pc2", "b")]
    assert find_doubts(machines, IMAGE) == {"pc1": [], "pc2": []}


def booted(**changes: str) -> MachineProof:
    machine = a_machine()
    assert machine.booted is not None
    return replace(machine, booted=replace(machine.booted, **changes))


@pytest.mark.parametrize(
    ("machine", "doubt"),
    [
        (replace(a_machine(), register_s=None), "its agent never registered"),
        (replace(a_machine(), report=None, error="disk too small"), "deployment failed: disk too small"),
        (replace(a_machine(), report=a_report(39)), "39 of 40 chunks verified"),
        (replace(a_machine(), report=replace(a_report(), manifest_hash="cd" * 32)), "another manifest"),
        (replace(a_machine(), disk_serial="LAB-OTHER"), "it wrote disk"),
        (replace(a_machine(), booted=None), "its own disk has not booted"),
        (booted(hostname="golden"), "it calls itself 'golden'"),
        (booted(firmware="uefi"), "it booted by uefi"),
        (booted(machine_id="01" * 16), "kept the machine-id of the image"),
        (booted(machine_id=""), "machine-id '' is none"),
        (booted(machine_id="b" * 32), "another machine has its machine-id"),
        (booted(host_key="none"), "no SSH host key"),
        (booted(host_key="AAAAC3b"), "another machine has its SSH host key"),
    ],
)
def test_whatever_is_missing_is_a_doubt_in_words(machine: MachineProof, doubt: str) -> None:
    doubts = find_doubts([machine, a_machine("pc2", "b")], IMAGE)
    assert len(doubts["pc1"]) == 1
    assert doubt in doubts["pc1"][0]


def test_the_table_shows_each_machine_even_one_that_never_came() -> None:
    lost = replace(a_machine("pc5", "e"), register_s=None, report=None, booted=None, boot_s=None)
    machines = [*(a_machine(f"pc{i}", "abcd"[i - 1]) for i in range(1, 5)), lost]
    console = Console(width=160, record=True, file=StringIO())
    tables = proof_tables(machines, IMAGE, find_doubts(machines, IMAGE), loss_percent=1)
    for table in tables:
        console.print(table)
    text = console.export_text()
    assert len(tables) == 2
    assert "40 of 40" in text
    assert "its agent never registered" in text
