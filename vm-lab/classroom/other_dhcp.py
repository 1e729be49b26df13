"""Other people's DHCP servers beside the appliance: they give addresses and know nothing of network boot."""

import json
from collections.abc import Sequence
from pathlib import Path

from classroom.network import PREFIX_LENGTH, SERVER_INTERFACE, Classroom
from classroom.processes import BackgroundProcess

ADDRESS = "10.77.0.2"
FIRST, LAST = "10.77.0.200", "10.77.0.240"
_NETWORK = f"10.77.0.0/{PREFIX_LENGTH}"


def dnsmasq(classroom: Classroom, directory: Path, logs: Path, options: Sequence[str] = ()) -> BackgroundProcess:
    """dnsmasq as DHCP server alone. `options`: further ones of its."""
    namespace = classroom.add_neighbour("dnsmasq", ADDRESS)
    command = dnsmasq_command(SERVER_INTERFACE, FIRST, LAST, directory / "dnsmasq.leases")
    command += ["--log-dhcp", "--log-facility=-", *options]
    return BackgroundProcess("dnsmasq", command, log=logs / "dnsmasq.log", namespace=namespace)


def dnsmasq_command(interface: str, first: str, last: str, leases: Path) -> list[str]:
    """dnsmasq that gives these addresses on one interface, does nothing else, and reads no file of the machine's."""
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file="]
    command += [f"--interface={interface}", "--bind-interfaces", "--no-ping", f"--dhcp-range={first},{last}"]
    return [*command, f"--dhcp-leasefile={leases}"]


def kea(classroom: Classroom, directory: Path, logs: Path) -> BackgroundProcess:
    """Kea's DHCP server with its leases in memory."""
    namespace = classroom.add_neighbour("kea", ADDRESS)
    configuration = {
        "Dhcp4": {
            "interfaces-config": {"interfaces": [SERVER_INTERFACE]},
            "lease-database": {"type": "memfile", "persist": False},
            "subnet4": [{"subnet": _NETWORK, "pools": [{"pool": f"{FIRST}-{LAST}"}]}],
        }
    }
    file = directory / "kea.json"
    file.write_text(json.dumps(configuration))
    places = {"KEA_PIDFILE_DIR": directory, "KEA_LOCKFILE_DIR": directory, "KEA_LOGGER_DESTINATION": logs / "kea.log"}
    return BackgroundProcess(
        "Kea",
        ["kea-dhcp4", "-c", file],
        log=logs / "kea.log",
        namespace=namespace,
        environment={name: str(place) for name, place in places.items()},
    )
