"""What is installed beside the program: the unit and the example of the settings file."""

import shutil
import subprocess
from pathlib import Path

import pytest

from netboot.config.loading import load

PACKAGING = Path(__file__).parents[2] / "packaging"
MOST_EXPOSED = 2.5
"""Of 10, as `systemd-analyze security` counts; raw frames and privileged ports are part of it."""


def systemd_analyze(*arguments: str) -> str:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "roomcast.service"
    unit.write_text((PACKAGING / "roomcast.service").read_text().replace("/usr/local/bin/roomcast", "/bin/true"))
    told = systemd_analyze("verify", "--man=no", str(unit))
    assert "roomcast.service" not in told, told


def test_unit_exposes_little(tmp_path: Path) -> None:
    unit = tmp_path / "roomcast.service"
    shutil.copy(PACKAGING / "roomcast.service", unit)
    systemd_analyze("security", "--offline=true", f"--threshold={round(MOST_EXPOSED * 10)}", str(unit))


def test_example_of_the_settings_file_is_right() -> None:
    loaded = load({}, PACKAGING / "roomcast.toml", {})
    assert loaded.settings.interfaces == ("eth1",) and loaded.warnings == ()
