"""DHCP clients of the world, each on its own host: how it is started, made to renew, and made to release."""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from netns import INTERFACE, Host

_SCRIPT = """#!/bin/sh
case "$reason$1" in
    *BOUND*|*RENEW*|*REBIND*|*REBOOT*|bound|renew)
        ip address replace "${ip:-$new_ip_address}/24" dev "$interface"
        for via in ${router:-$new_routers}; do ip route replace default via "$via"; done;;
    *EXPIRE*|*RELEASE*|*STOP*|deconfig) ip address flush dev "$interface";;
esac
exit 0
"""
_NETWORK = "[Match]\\nName={interface}\\n[Network]\\nDHCP=ipv4\\nLinkLocalAddressing=no\\nIPv6AcceptRA=no\\n{more}"
_NETWORKD = """
mount -t tmpfs tmpfs /run && mount -t sysfs -o ro sysfs /sys && mkdir -p /run/systemd/network /run/systemd/netif &&
chmod 755 /run /run/systemd /run/systemd/network && printf '{network}' >/run/systemd/network/e.network &&
SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=debug exec /lib/systemd/systemd-networkd
"""
_DHCPCD = """
mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib/dhcpcd && exec dhcpcd -B -4 -d -f {file} {more} {interface}
"""


@dataclass
class Client:
    """A DHCP client at work on a host. Its output is in `directory`/NAME.log."""

    name: str
    host: Host
    directory: Path
    interface: str = INTERFACE
    settings: str = ""
    """Further lines of its configuration; for udhcpc further arguments."""
    more: str = ""
    """Further arguments of dhcpcd."""
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> "Client":
        self.directory.mkdir(exist_ok=True)
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self.process = self.host.popen(*_STARTS[self.name](self), output=log.fileno())
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def release(self) -> None:
        """Give the address back, and end."""
        match self.name:
            case "udhcpc":
                self.signal(signal.SIGUSR2)
            case "dhclient":
                self.host.run("dhclient", "-r", *_dhclient_files(self), self.interface)
            case "dhcpcd":
                self.signal(signal.SIGALRM)
            case "networkd":
                self.signal(signal.SIGTERM)

    def log(self) -> str:
        return (self.directory / f"{self.name}.log").read_text(errors="replace")


def _script(client: Client) -> Path:
    file = client.directory / "script"
    file.write_text(_SCRIPT)
    file.chmod(0o755)
    return file


def _udhcpc(client: Client) -> list[str]:
    words = ["busybox", "udhcpc", "-f", "-R", "-i", client.interface, "-s", str(_script(client)), "-t", "10", "-T", "1"]
    return [*words, *client.settings.split()]


def _dhclient_files(client: Client) -> list[str]:
    at = client.directory
    return ["-cf", f"{at}/conf", "-lf", f"{at}/leases", "-pf", f"{at}/pid", "-sf", str(_script(client))]


def _dhclient(client: Client) -> list[str]:
    (client.directory / "conf").write_text("initial-interval 1;\nbackoff-cutoff 2;\n" + client.settings)
    return ["dhclient", "-4", "-d", "-v", *_dhclient_files(client), client.interface]


def _dhcpcd(client: Client) -> list[str]:
    file = client.directory / "conf"
    file.write_text("clientid\nscript /bin/true\nnohook all\noption rapid_commit\n" + client.settings)
    return ["unshare", "-m", "sh", "-c", _DHCPCD.format(file=file, more=client.more, interface=client.interface)]


def _networkd(client: Client) -> list[str]:
    network = _NETWORK.format(interface=client.interface, more=client.settings)
    return ["unshare", "-m", "sh", "-c", _NETWORKD.format(network=network)]


_STARTS: dict[str, Callable[[Client], list[str]]] = {
    "udhcpc": _udhcpc,
    "dhclient": _dhclient,
    "dhcpcd": _dhcpcd,
    "networkd": _networkd,
}
NAMES = tuple(_STARTS)
