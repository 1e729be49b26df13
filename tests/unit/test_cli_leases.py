"""`roomcast lease`: what mends a damaged file, and when it does not; a MAC in print is a MAC."""

from pathlib import Path

import pytest
from lease_builders import a_lease, changes, open_leases
from typer.testing import CliRunner, Result

from netboot.cli.main import build_app
from netboot.cli.output import print_json
from netboot.dhcp.lease_time import ClockReading
from netboot.errors import ServiceError
from netboot.persistence.lease_file import backup_of
from netboot.persistence.only_one import only_one_uses


def damaged_leases(data: Path) -> Path:
    """Ten leases, one of them with a wrong bit, and no good copy."""
    path = data / "leases.db"
    file = open_leases(path)
    file.write(changes([a_lease(number) for number in range(10)]), ClockReading("a boot", 1.0, 2.0, 3.0))
    file.close()
    path.write_bytes(path.read_bytes().replace(b"52:54:00:00:00:05", b"52:54:00:00:00:06"))
    backup_of(path).unlink()
    return path


def recover(data: Path) -> Result:
    return CliRunner().invoke(build_app(), ["lease", "recover", "--data", str(data)])


def test_the_command_that_a_refusal_names_brings_back_what_can_be_read(tmp_path: Path) -> None:
    path = damaged_leases(tmp_path)
    with pytest.raises(ServiceError, match=f"roomcast lease recover --data {tmp_path}"):
        open_leases(path)
    told = recover(tmp_path)
    assert told.exit_code == 0, told.output
    assert "9 leases recovered" in told.output
    file = open_leases(path)
    file.close()
    assert {lease.mac for lease in file.load()} == {a_lease(number).mac for number in range(10) if number != 5}


def test_nothing_is_recovered_under_a_running_appliance(tmp_path: Path) -> None:
    path = damaged_leases(tmp_path)
    before = path.read_bytes()
    with only_one_uses(tmp_path):
        refused = recover(tmp_path)
    assert refused.exit_code != 0
    assert "uses" in str(refused.exception) and "already" in str(refused.exception)
    assert path.read_bytes() == before


def test_bytes_of_a_mac_are_no_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"mac": "02:cd:ab:00:0f:01"})
    assert "02:cd:ab:00:0f:01" in capsys.readouterr().out
