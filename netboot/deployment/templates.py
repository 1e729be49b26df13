"""Templates rendered for a machine that the appliance knows."""

from imager.wire.messages import FirmwareKind
from netboot.boot.render import Renderer
from netboot.boot.unattend import UnattendMachine, render_unattend
from netboot.errors import UnknownError

RENDERED = ("unattend",)
"""What an administrator may ask to see for a machine."""


def list_template_names(renderer: Renderer) -> list[str]:
    """Short names that render, then the files of all templates."""
    return [*RENDERED, *(info.name for info in renderer.list_templates())]


def render_for_machine(renderer: Renderer, template: str, machine: str, firmware: FirmwareKind) -> str:
    """The text of a template for one machine. Raises UnknownError, TemplateError or UserError."""
    if template not in RENDERED:
        raise UnknownError(f"no template {template} for a machine; there is: {', '.join(RENDERED)}")
    return render_unattend(UnattendMachine(machine, firmware), renderer=renderer)
