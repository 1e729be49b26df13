"""New settings while the appliance runs: what takes effect at once does, the rest is told to need a restart."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from netboot.config.current import Change, CurrentSettings, find_changes, take_live
from netboot.config.loading import Loaded
from netboot.config.mistakes import ConfigError
from netboot.config.settings import Settings
from netboot.errors import NetbootError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed."""

    changed: list[Change]
    """Takes effect from now on."""
    waiting: list[Change]
    """Takes effect when the appliance is started again."""


class Reloader:
    """Asked by SIGHUP and by `roomcast reload`."""

    def __init__(
        self,
        load: Callable[[], Loaded],
        current: CurrentSettings,
        apply: Callable[[Settings, Loaded], None],
    ) -> None:
        """`apply` raises NetbootError, and then has changed nothing."""
        self._load = load
        self._current = current
        self._apply = apply

    def reload(self) -> Reloaded:
        """Raises ConfigError with every mistake, or another NetbootError: then everything is as before."""
        old = self._current.settings
        loaded = self._load()
        changes = find_changes(old, loaded.settings)
        new = take_live(old, loaded.settings)
        if new != old:
            self._apply(new, loaded)
            self._current.settings = new
        reloaded = Reloaded([each for each in changes if each.live], [each for each in changes if not each.live])
        for warning in loaded.warnings:
            log.warning("settings", warning=warning)
        log.info(
            "settings reloaded",
            changed=[each.key for each in reloaded.changed],
            at_next_start=[each.key for each in reloaded.waiting],
        )
        return reloaded

    def reload_or_log(self) -> None:
        """For a signal, which nobody answers."""
        try:
            self.reload()
        except ConfigError as error:
            for mistake in error.mistakes:
                log.error("settings not reloaded, the old ones hold", mistake=str(mistake))
        except NetbootError as error:
            log.error("settings not reloaded, the old ones hold", cause=str(error))
