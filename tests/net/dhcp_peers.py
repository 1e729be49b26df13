"""Other DHCP servers on a host of a test network: dnsmasq and Kea, which give 10.99.0.50 to .59."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from netns import INTERFACE, Host

FIRST, LAST = "10.99.0.50", "10.99.0.59"
NAMES = ("dnsmasq", "kea")


def start_peer(name: str, host: Host, directory: Path) -> "subprocess.Popen[bytes]":
    """The server, which has its port when this returns."""
    directory.mkdir(exist_ok=True)
    process = _START[name](host, directory)
    deadline = time.monotonic() + 20
    while ":67 " not in host.run("ss", "-lunH"):
        assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
        time.sleep(0.02)
    return process


def _dnsmasq(host: Host, directory: Path) -> "subprocess.Popen[bytes]":
    with (directory / "log").open("wb") as log:
        return host.popen(
            "dnsmasq", "--keep-in-foreground", "--port=0", "--no-ping", "--conf-file=/dev/null", "--bind-interfaces",
            f"--interface={INTERFACE}", f"--dhcp-range={FIRST},{LAST},1h", "--dhcp-authoritative", "--user=root",
            f"--dhcp-leasefile={directory}/leases", f"--pid-file={directory}/pid", "--log-facility=-", "--log-dhcp",
            output=log.fileno(),
        )  # fmt: skip


def _kea(host: Host, directory: Path) -> "subprocess.Popen[bytes]":
    settings = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": [INTERFACE]},
            "lease-database": {"type": "memfile", "persist": False},
            "authoritative": True,
            "subnet4": [{"subnet": "10.99.0.0/24", "pools": [{"pool": f"{FIRST}-{LAST}"}]}],
            "loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stdout"}], "severity": "INFO"}],
        }
    }
    file = directory / "kea.json"
    file.write_text(json.dumps(settings))
    environment = {**os.environ, "KEA_PIDFILE_DIR": str(directory), "KEA_LOCKFILE_DIR": str(directory)}
    with (directory / "log").open("wb") as log:
        return host.popen("kea-dhcp4", "-c", str(file), output=log.fileno(), env=environment)


_START: dict[str, Callable[[Host, Path], "subprocess.Popen[bytes]"]] = {"dnsmasq": _dnsmasq, "kea": _kea}
