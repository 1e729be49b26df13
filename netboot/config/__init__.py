"""The settings of the appliance: their types, and where they come from."""

from netboot.config.loading import Loaded, data_directory, load, load_settings, socket_path
from netboot.config.mistakes import ConfigError, Mistake
from netboot.config.settings import (
    CONFIG_FILE,
    CONTROL_PORT_BASE,
    CONTROL_PORTS,
    DATA_DIRECTORY,
    DATA_PORTS,
    SOCKET_PATH,
    AddressRange,
    CastNetwork,
    Mode,
    ReservationSettings,
    Settings,
    SubnetSettings,
    cast_group,
)

__all__ = [
    "CONFIG_FILE",
    "CONTROL_PORTS",
    "CONTROL_PORT_BASE",
    "DATA_DIRECTORY",
    "DATA_PORTS",
    "SOCKET_PATH",
    "AddressRange",
    "CastNetwork",
    "ConfigError",
    "Loaded",
    "Mistake",
    "Mode",
    "ReservationSettings",
    "Settings",
    "SubnetSettings",
    "cast_group",
    "data_directory",
    "load",
    "load_settings",
    "socket_path",
]
