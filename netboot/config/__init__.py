"""The settings of the appliance: their types, and where they come from."""

from netboot.config.load import data_directory, load_settings, socket_path
from netboot.config.settings import (
    CONFIG_FILE,
    CONTROL_PORT_BASE,
    CONTROL_PORTS,
    DATA_DIRECTORY,
    DATA_PORTS,
    SOCKET_PATH,
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
    "Mode",
    "ReservationSettings",
    "Settings",
    "SubnetSettings",
    "cast_group",
    "data_directory",
    "load_settings",
    "socket_path",
]
