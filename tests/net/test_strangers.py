"""What a stranger on the machines' network gets: the boot files that everybody gets, and nothing of anybody else."""

import base64
import hashlib
import http.client
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest
from clean_client import CleanClient
from fastapi.routing import APIRoute
from inventories import an_inventory
from netns import Host, Lan
from test_appliance_serve import Machine, Served, keep_image, serving

from imager.image.keys import load_or_create_signing_key
from imager.wire.messages import Nic, Progress, Registration, TaskKind, decode, encode
from netboot.api.agent import build_agent_app
from netboot.boot.selection import BIOS_GRUB, UefiArch

pytestmark = pytest.mark.root

CHUNK = "ab" * 32


def agent_questions(task: int) -> list[tuple[str, str]]:
    """Every request that an agent makes after it has registered."""
    own = f"/agent/v1/tasks/{task}"
    return [
        ("POST", f"{own}/progress"), ("POST", f"{own}/result"), ("GET", f"{own}/manifest"), ("POST", f"{own}/ready"),
        ("HEAD", f"{own}/chunks/{CHUNK}"), ("PUT", f"{own}/chunks/{CHUNK}"), ("POST", f"{own}/publish"),
    ]  # fmt: skip


def own_paths(machine: Machine) -> list[str]:
    """Where a careless server would have a machine's own files."""
    mac, dashed = machine.host.mac, machine.host.mac.replace(":", "-")
    names = [machine.name, mac, dashed, "1"]
    files = ["unattend.xml", "autounattend.xml", "preseed.cfg", "user-data", "token", "manifest", "inventory"]
    return [
        *(f"/{root}{name}/{file}" for root in ("", "boot/", "agent/v1/", "agent/v1/machines/") for name in names
          for file in files),
        *(f"/boot/{file}" for file in files), *(f"/boot/unattend/{name}.xml" for name in names),
        f"/boot/grub/machine-{mac}.cfg/../token", "/openapi.json", "/docs", "/metrics", "/api/v1/status",
        "/api/v1/machines", f"/api/v1/machines/{machine.name}", "/api/v1/templates", "/api/v1/boot-log/ignored",
        "/machines", "/live/machines", "/boot/", "/boot", "/agent", "/agent/v1", "/agent/v1/machines",
    ]  # fmt: skip


def secrets_of(served: Served, machine: Machine) -> list[bytes]:
    key = load_or_create_signing_key(served.data / "keys").private_bytes_raw()
    answers = served.host.run(
        "curl", "-sS", "--unix-socket", str(served.directory / "api.sock"), "-H", "content-type: application/json",
        "-d", f'{{"machine": "{machine.name}"}}', "http://x/api/v1/templates/unattend/render",
    )  # fmt: skip
    assert "<unattend" in answers
    return [key, key.hex().encode(), machine.token.encode(), machine.token.split(".")[1].encode(), b"<unattend"]


def test_a_stranger_and_another_machine_get_nothing_of_a_machine(tmp_path: Path) -> None:
    with Lan(3) as lan, serving(lan.hosts[0], tmp_path) as served:
        victim, other = (Machine(host, lan.hosts[0].ip) for host in lan.hosts[1:])
        victim.register()
        other.register()
        served.roomcast("machine", "rename", victim.name, "pc-01")
        victim.name = "pc-01"
        keep_image(served.data, "golden", 1)
        assert served.roomcast("deploy", "golden", "--to", victim.name).returncode == 0
        task = victim.take()
        assert task.kind is TaskKind.DEPLOY
        secrets = secrets_of(served, victim)

        stranger = Machine(lan.hosts[2], lan.hosts[0].ip)
        for method, path in [*agent_questions(task.id), ("GET", "/agent/v1/task"), *agent_questions(task.id + 1)]:
            status, body = stranger.ask(method, path)
            assert status == 401 and (b"register first" in body or method == "HEAD"), path
        identity, secret = victim.token.split(".")
        made_up = ["", ".", secret, f"{identity}.", f"{identity}.{'0' * 64}", f"9{identity}.{secret}", f"-1.{secret}"]
        for token in made_up:
            stranger.token = token
            assert stranger.ask("GET", "/agent/v1/task")[0] == 401, token

        for method, path in agent_questions(task.id):
            status, body = other.ask(method, path, encode(Progress("receive", 1, 2, 1.0)))
            assert status in (400, 404), (path, status, body)
            assert all(secret not in body for secret in secrets), path
        assert victim.say(task, "receive") == 204, "nothing of it disturbed the machine"

        stranger.token = ""
        for path in own_paths(victim):
            for asking in (stranger, other):
                status, body = asking.ask("GET", path)
                assert status in (400, 401, 404, 405), (path, status, body)
                assert all(secret not in body for secret in secrets), path
        for path in (f"/boot/grub/grub.cfg-01-{victim.host.mac.replace(':', '-')}", "/boot/grub/grub.cfg"):
            status, body = stranger.ask("GET", path)
            assert status == 200
            assert all(secret not in body for secret in secrets), path
        assert (tmp_path / "api.sock").stat().st_mode & 0o077 == 0
        assert served.data.stat().st_mode & 0o077 == 0
        assert "Traceback" not in served.log()


MARK = b"MARK-IN-EVERY-DIRECTORY"
EVERYBODYS = {"GET /boot/{path:path}", "HEAD /boot/{path:path}"}
UUID = "4c4c4544-0051-3510-8052-b4c04f4e3332"


def asked(host: Host, server: str, method: str, path: str, token: str = "") -> tuple[int, bytes]:
    """Status of an answer, and all of its head and body."""
    with host.entered():
        connection = http.client.HTTPConnection(server, 80, timeout=30)
        connection.connect()
    try:
        connection.request(method, path, headers={"authorization": f"Bearer {token}"} if token else {})
        answer = connection.getresponse()
        return answer.status, str(answer.headers).encode() + answer.read()
    finally:
        connection.close()


def app_routes() -> list[APIRoute]:
    """Everything that the app on the machines' network answers."""
    routes = build_agent_app(cast(Any, None), cast(Any, None)).routes
    assert all(isinstance(route, APIRoute) for route in routes)
    return [route for route in routes if isinstance(route, APIRoute)]


def public_names(mac: str) -> set[str]:
    """Every name of the tree of boot files, where it names a machine: this one."""
    dashed = mac.replace(":", "-")
    programs = {name for arch in UefiArch for name in (arch.shim, arch.signed_grub, arch.own_grub)}
    menus = (f"machine-{mac}.cfg", f"machine-{mac}-arm64.cfg", f"failed-chainload-{mac}.cfg", "machine-.cfg")
    return {
        BIOS_GRUB, *programs, *(Path(name).name for name in programs if "grub" in name), "agent/vmlinuz",
        "agent/initrd.img", "grub/grub.cfg", f"grub/grub.cfg-01-{dashed}", *(f"grub/{menu}" for menu in menus),
        *(arch.http_image(mac) for arch in UefiArch),
    }  # fmt: skip


def files_below(directory: Path) -> set[str]:
    """Every name that a careless server could have for what lies there."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {name for path in paths for name in (str(path.relative_to(directory)), str(path), path.name)}


def secrets_of_a_deployment(served: Served, machine: Machine) -> list[bytes]:
    """Of all kinds that there are; a mark stands for what an administrator puts into any directory."""
    for directory in [path for path in (served.data, *served.data.rglob("*")) if path.is_dir()]:
        (directory / "unattend.xml").write_bytes(MARK)
    key = load_or_create_signing_key(served.data / "keys").private_bytes_raw()
    pem = (served.data / "keys" / "signing.key").read_bytes().splitlines()[1]
    token = machine.token.split(".")[1]
    return [
        key, key.hex().encode(), base64.b64encode(key), pem, b"PRIVATE KEY", machine.token.encode(), token.encode(),
        hashlib.sha256(token.encode()).hexdigest().encode(), b"<unattend", MARK,
    ]  # fmt: skip


def claim(machine: Machine, mac: str) -> bytes:
    """An inventory that names a machine by everything but the address that the stranger boots from."""
    nics = (Nic("e0", mac, "", 0), Nic("e1", machine.host.mac, "", 0))
    return encode(an_inventory(mac, address="10.99.0.3", system_uuid=UUID, nics=nics))


def test_no_public_path_shows_a_stranger_a_secret_of_a_deployment(tmp_path: Path) -> None:
    """Not by asking for another machine's files, nor by saying to be it."""
    with (
        Lan(3) as lan,
        serving(lan.hosts[0], tmp_path) as served,
        CleanClient(lan.hosts[2], IPv4Address(lan.hosts[0].ip)) as by_tftp,
    ):
        server, stranger = lan.hosts[0].ip, lan.hosts[2]
        for name in ("vmlinuz", "initrd.img"):
            (served.data / "agent").mkdir(exist_ok=True)
            (served.data / "agent" / name).write_bytes(b"agent")
        victim = Machine(lan.hosts[1], server)
        victim.register()
        keep_image(served.data, "golden", 1)
        assert served.roomcast("deploy", "golden", "--to", victim.name).returncode == 0
        secrets = secrets_of_a_deployment(served, victim)

        def walk(token: str) -> set[str]:
            """Ask for everything; the paths that are answered with something."""
            given = set()
            for route in app_routes():
                for number in (1, 2):
                    path = route.path_format.format(task_id=number, hash=CHUNK, path="grub/grub.cfg")
                    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
                        status, answer = asked(stranger, server, method, path, token)
                        assert not [secret for secret in secrets if secret in answer], (method, path)
                        given |= {f"{method} {route.path}"} if status < 300 else set()
            return given

        assert walk("") == EVERYBODYS

        public = public_names(victim.host.mac)
        private = files_below(served.data) | files_below(Path(served.directory)) | {p[1:] for p in own_paths(victim)}
        seen = {"http": set[str](), "tftp": set[str]()}
        for name in sorted(public | private):
            status, answer = asked(stranger, server, "GET", f"/boot/{name}")
            seen["http"] |= {name} if status == 200 else set()
            content = by_tftp.fetch(name, 16384)
            seen["tftp"] |= {name} if content else set()
            status, elsewhere = asked(stranger, server, "GET", f"/{name.lstrip('/')}")
            assert status in (400, 401, 404, 405) or name.startswith("boot/"), name
            for told in (answer, content, elsewhere):
                assert not [secret for secret in secrets if secret in told], name
        assert seen["http"] | seen["tftp"] <= public, "nothing but the boot files"
        assert {BIOS_GRUB, "agent/initrd.img", f"grub/machine-{victim.host.mac}.cfg"} <= seen["http"] & seen["tftp"]

        status, answer = Machine(stranger, server).ask("POST", "/agent/v1/register", claim(victim, "06:00:00:00:00:01"))
        assert status == 200, "whose leases are another server's, nobody can tell it from the machine with a new card"
        assert not [secret for secret in secrets if secret in answer]
        token = decode(Registration, answer).token
        assert walk(token) == {*EVERYBODYS, "GET /agent/v1/task", "GET /agent/v1/tasks/{task_id}/manifest"}
