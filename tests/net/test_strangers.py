"""What a stranger on the machines' network gets: the boot files that everybody gets, and nothing of anybody else."""

from pathlib import Path

import pytest
from netns import Lan
from test_appliance_serve import Machine, Served, keep_image, serving

from imager.image.keys import load_or_create_signing_key
from imager.wire.messages import Progress, TaskKind, encode

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
