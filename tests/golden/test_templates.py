"""Every template, rendered for usual machines, byte for byte as it was looked through last.

After a wanted change: `.venv/bin/python tests/golden/test_templates.py` writes the files anew; read their difference.
"""

from pathlib import Path

import pytest

from imager.wire.messages import FirmwareKind
from netboot.boot.contexts import CONTEXTS, AgentContext, FirstStageContext, LocalContext, TemplateContext
from netboot.boot.render import Renderer
from netboot.boot.unattend import UnattendMachine, UnattendSettings, render_unattend
from netboot.model import Way

DATA = Path(__file__).parents[1] / "data" / "golden" / "templates"

AGENT = AgentContext(
    server="10.77.0.1",
    http_port=80,
    key="0123456789abcdef" * 4,
    mac="52:54:00:aa:bb:01",
    machine="room-12-03",
    reason="deploy debian-12 version 3",
)
GRUB: dict[str, TemplateContext] = {
    "first-stage.cfg": FirstStageContext(),
    "agent.cfg": AGENT,
    "agent-unknown-serial.cfg": AgentContext("10.77.0.1", 8080, "0123456789abcdef" * 4, "", "", "", serial=True),
    "local.cfg": LocalContext("room-12-03", "no task", mac="52:54:00:aa:bb:01"),
    "local-exit.cfg": LocalContext("room-12-03", "no task", Way.EXIT),
    "local-nothing-left.cfg": LocalContext("room-12-03", "no task", None),
}
SETTINGS = UnattendSettings(
    locale="en-GB", time_zone="GMT Standard Time", administrator="teacher", password="chalk", organization="School"
)
UNATTEND = {
    "unattend-bios.xml": (FirmwareKind.BIOS, None),
    "unattend-uefi.xml": (FirmwareKind.UEFI, SETTINGS),
}


def rendered() -> dict[str, str]:
    renderer = Renderer(None)
    texts = {name: renderer.render_template(context.template, context) for name, context in GRUB.items()}
    for name, (firmware, settings) in UNATTEND.items():
        texts[name] = render_unattend(UnattendMachine("ROOM-12-03", firmware), settings, renderer)
    return texts


@pytest.mark.parametrize("name", [*GRUB, *UNATTEND])
def test_a_template_renders_as_it_was_looked_through(name: str) -> None:
    assert rendered()[name] == (DATA / name).read_text()


def test_every_template_has_a_golden_rendering() -> None:
    templates = {context.template for context in GRUB.values()} | {"unattend/windows-11.xml.j2"}
    assert templates == {context.template for context in CONTEXTS}
    assert {file.name for file in DATA.iterdir()} == {*GRUB, *UNATTEND}


if __name__ == "__main__":
    for name, text in rendered().items():
        (DATA / name).write_text(text)
