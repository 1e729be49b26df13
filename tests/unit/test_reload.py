"""Reload: what takes effect at once, what waits for the next start, and a wrong file that changes nothing."""

from pathlib import Path

import pytest

from netboot.config import ConfigError, Loaded, Settings, load
from netboot.config.current import CurrentSettings, find_changes, take_live
from netboot.config.keys import KEYS
from netboot.errors import ServiceError
from netboot.reload import Reloader

FIRST = 'interfaces = ["eth1"]\npool = "10.77.0.100-10.77.0.120"\nidle-s = 900\n'


class Running:
    """A reloader over a file, and what it had taken into effect."""

    def __init__(self, directory: Path, text: str = FIRST) -> None:
        self.file = directory / "roomcast.toml"
        self.file.write_text(text)
        self.applied: list[Settings] = []
        self.refusal: Exception | None = None
        self.current = CurrentSettings(self.load().settings)
        self.reloader = Reloader(self.load, self.current, self.apply)

    def load(self) -> Loaded:
        return load({"http_port": 8080}, self.file, {})

    def apply(self, settings: Settings, loaded: Loaded) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.applied.append(settings)


def test_live_settings_take_effect_and_the_rest_waits(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.file.write_text(FIRST.replace("120", "150").replace("900", "60") + 'data = "/srv/elsewhere"\n')
    reloaded = running.reloader.reload()
    assert [(each.key, each.new) for each in reloaded.changed] == [
        ("pool", "10.77.0.100, 10.77.0.150"),
        ("idle-s", "60.0"),
    ]
    assert [each.key for each in reloaded.waiting] == ["data"]
    (applied,) = running.applied
    assert applied is running.current.settings
    assert applied.idle_s == 60 and str(applied.data) == "/var/lib/roomcast"
    again = running.reloader.reload()
    assert again.changed == [] and [each.key for each in again.waiting] == ["data"]
    assert len(running.applied) == 1, "nothing that takes effect has changed since"


def test_flag_goes_before_the_file_on_reload_too(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.file.write_text(FIRST + "http-port = 81\n")
    assert running.reloader.reload().waiting == []


def test_wrong_file_tells_every_mistake_and_changes_nothing(tmp_path: Path) -> None:
    running = Running(tmp_path)
    before = running.current.settings
    running.file.write_text(FIRST.replace("900", "1") + 'mode = "sever"\nlease-s = 60\n')
    with pytest.raises(ConfigError) as caught:
        running.reloader.reload()
    assert [mistake.key for mistake in caught.value.mistakes] == ["idle-s", "mode"]
    running.file.unlink()
    running.reloader.reload_or_log()
    assert running.current.settings is before and running.applied == []


def test_settings_that_cannot_be_applied_leave_the_old_ones(tmp_path: Path) -> None:
    running = Running(tmp_path)
    before = running.current.settings
    running.refusal = ServiceError("no room for a pool")
    running.file.write_text(FIRST.replace("900", "60"))
    with pytest.raises(ServiceError):
        running.reloader.reload()
    running.reloader.reload_or_log()
    assert running.current.settings is before


def test_every_setting_is_either_live_or_told_to_wait() -> None:
    old, new = Settings(("eth1",)), Settings(("eth2",), lease_s=60)
    assert {change.key: change.live for change in find_changes(old, new)} == {"interfaces": False, "lease-s": True}
    taken = take_live(old, new)
    assert find_changes(taken, new) == [change for change in find_changes(old, new) if not change.live]
    assert any(key.live for key in KEYS) and not all(key.live for key in KEYS)
