"""Answer files for Windows 11 setup, for one machine. Reads the template, nothing else.

Checks what Windows would refuse in the middle of an installation, before anything is rendered.
"""

import base64
import re
from dataclasses import dataclass

from imager.wire.messages import FirmwareKind
from netboot.boot.contexts import UnattendContext
from netboot.boot.render import Renderer
from netboot.errors import UserError

_LONGEST_NAME = 15
"""NetBIOS: 16 bytes, of which the last is the service type."""
_NAME = re.compile(r"[A-Za-z0-9-]+")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-[A-Za-z]{2}|-[0-9]{3})?")
_LAYOUT = re.compile(r"[0-9A-Fa-f]{4}:[0-9A-Fa-f]{8}")
_PRODUCT_KEY = re.compile(r"([A-Za-z0-9]{5}-){4}[A-Za-z0-9]{5}")
_NOT_IN_ACCOUNTS = re.compile(r'["/\\\[\]:;|=,+*?<>%@\x00-\x1f\x7f]')
_RESERVED_ACCOUNTS = frozenset({"administrator", "guest", "defaultaccount", "wdagutilityaccount", "system", "none"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

WINDOWS_PARTITION = {FirmwareKind.BIOS: 3, FirmwareKind.UEFI: 4}
"""The number of the Windows partition in the layouts of the template. It comes last, because Windows setup lets only
the last partition take the rest of the disk."""


@dataclass(frozen=True, slots=True)
class UnattendMachine:
    """What the answer file takes from a machine."""

    name: str
    """Becomes the computer name: at most 15 letters, digits and dashes, not digits only."""
    firmware: FirmwareKind


@dataclass(frozen=True, slots=True)
class UnattendSettings:
    """What the answer file takes from the administrator."""

    locale: str = "en-US"
    keyboard: str = ""
    """Input locale; empty: that of `locale`."""
    time_zone: str = "UTC"
    """A name that `tzutil /l` lists."""
    administrator: str = "roomcast"
    """Local account in the group Administrators; not the built-in one."""
    password: str = ""
    """Empty: the account has none, so that Windows allows it at the console only."""
    organization: str = ""
    product_key: str = ""
    image_index: int = 1
    disk: int = 0


def render_unattend(
    machine: UnattendMachine, settings: UnattendSettings | None = None, renderer: Renderer | None = None
) -> str:
    """The unattend.xml of `machine`, well-formed. Raises UserError naming the value that Windows would refuse."""
    settings = settings or UnattendSettings()
    check_computer_name(machine.name)
    _check(settings)
    context = UnattendContext(
        firmware=machine.firmware,
        computer_name=machine.name,
        locale=settings.locale,
        keyboard=settings.keyboard or settings.locale,
        time_zone=settings.time_zone,
        administrator=settings.administrator,
        encoded_password=_encode_password(settings.password),
        organization=settings.organization,
        product_key=settings.product_key.upper(),
        image_index=settings.image_index,
        disk=settings.disk,
        windows_partition=WINDOWS_PARTITION[machine.firmware],
    )
    return (renderer or Renderer()).render_template(context.template, context)


def check_computer_name(name: str) -> None:
    """Raise UserError unless Windows takes `name` as a computer name."""
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"{name!r} has {len(name)} characters, and a Windows computer name has at most {_LONGEST_NAME}: "
            "rename the machine (roomcast machine rename)"
        )
    if not _NAME.fullmatch(name) or name.startswith("-") or name.endswith("-") or name.isdecimal():
        raise UserError(
            f"{name!r} is not a Windows computer name: letters, digits and dashes inside, not digits only; "
            "rename the machine (roomcast machine rename)"
        )


def _check(settings: UnattendSettings) -> None:
    account = settings.administrator
    if not account or len(account) > 20 or _NOT_IN_ACCOUNTS.search(account) or account != account.strip(" ."):
        raise UserError(
            f'{account!r} is not a Windows account name: 1 to 20 characters, none of " / \\ [ ] : ; | = , + * ? < > % @'
        )
    if account.lower() in _RESERVED_ACCOUNTS:
        raise UserError(f"{account!r} is an account that Windows makes itself: choose another name")
    if not _LOCALE.fullmatch(settings.locale):
        raise UserError(f"{settings.locale!r} is not a locale such as en-GB")
    if settings.keyboard and not (_LOCALE.fullmatch(settings.keyboard) or _LAYOUT.fullmatch(settings.keyboard)):
        raise UserError(f"{settings.keyboard!r} is neither a locale such as en-GB nor a layout such as 0809:00000809")
    if not settings.time_zone or _CONTROL.search(settings.time_zone):
        raise UserError(f"{settings.time_zone!r} is not a Windows time zone: take a name that `tzutil /l` lists")
    if len(settings.password) > 127 or _CONTROL.search(settings.password):
        raise UserError("the password has more than 127 characters or control characters in it")
    if _CONTROL.search(settings.organization):
        raise UserError("the organization has control characters in it")
    if settings.product_key and not _PRODUCT_KEY.fullmatch(settings.product_key):
        raise UserError("the product key is not of the form XXXXX-XXXXX-XXXXX-XXXXX-XXXXX")
    if settings.image_index < 1 or settings.disk < 0:
        raise UserError("images of install.wim are numbered from 1 and disks from 0")


def _encode_password(password: str) -> str:
    """As Windows System Image Manager hides it: base64 of UTF-16 of the password and the name of its element."""
    if not password:
        return ""
    return base64.b64encode((password + "Password").encode("utf-16-le", "surrogatepass")).decode()
