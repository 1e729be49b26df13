"""Templates rendered for a machine that the appliance knows."""

from imager.wire.messages import FirmwareKind
from netboot.boot.render import Renderer
from netboot.boot.unattend import UnattendMachine, render_unattend
from netboot.errors import UnknownError

RENDERED = ("unattend",)
"""What an administrator may ask to see for a machine."""


def list_template_names() -> list[str]:
    """Names that `render_for_machine` takes."""
    return list(RENDERED)


def check_template_name(template: str) -> None:
    """Raises UnknownError that names what can be rendered."""
    if template not in RENDERED:
        raise UnknownError(f"no template {template[:80]} for a machine; there is: {', '.join(RENDERED)}")


def render_for_machine(renderer: Renderer, template: str, machine: str, firmware: FirmwareKind) -> str:
    """The text of a template for one machine. Raises UnknownError, TemplateError or UserError."""
    check_template_name(template)
    return render_unattend(UnattendMachine(machine, firmware), renderer=renderer)
