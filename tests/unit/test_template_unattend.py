import base64
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from imager.wire.messages import FirmwareKind
from netboot.boot.contexts import UnattendContext
from netboot.boot.render import Renderer
from netboot.boot.unattend import (
    WINDOWS_PARTITION,
    UnattendMachine,
    UnattendSettings,
    check_computer_name,
    render_unattend,
)
from netboot.errors import UserError

NAMESPACES = {"u": "urn:schemas-microsoft-com:unattend", "wcm": "http://schemas.microsoft.com/WMIConfig/2002/State"}
both = pytest.mark.parametrize("firmware", list(FirmwareKind))


def parse(firmware: FirmwareKind, settings: UnattendSettings | None = None) -> etree._Element:
    return etree.fromstring(render_unattend(UnattendMachine("PC-01", firmware), settings).encode())


def texts(tree: etree._Element, path: str) -> list[str]:
    """Texts of all elements at `path`, whose steps are names in the namespace of answer files."""
    steps = "/".join(f"u:{step}" if step not in ("", ".") else step for step in path.split("/"))
    return [element.text or "" for element in tree.iterfind(steps, NAMESPACES)]


@both
def test_the_passes_come_in_the_order_of_an_installation(firmware: FirmwareKind) -> None:
    tree = parse(firmware)
    assert tree.tag == "{urn:schemas-microsoft-com:unattend}unattend"
    assert [settings.get("pass") for settings in tree] == ["windowsPE", "specialize", "oobeSystem"]


@both
def test_every_component_is_that_of_64_bit_windows(firmware: FirmwareKind) -> None:
    components = parse(firmware).findall("u:settings/u:component", NAMESPACES)
    assert len(components) == 5
    for component in components:
        attributes = dict(component.attrib)
        assert str(attributes.pop("name")).startswith("Microsoft-Windows-")
        assert attributes == {
            "processorArchitecture": "amd64",
            "publicKeyToken": "31bf3856ad364e35",
            "language": "neutral",
            "versionScope": "nonSxS",
        }


def test_a_uefi_disk_gets_esp_msr_recovery_and_windows() -> None:
    tree = parse(FirmwareKind.UEFI)
    assert texts(tree, ".//CreatePartition/Type") == ["EFI", "MSR", "Primary", "Primary"]
    assert texts(tree, ".//ModifyPartition/Label") == ["System", "Recovery", "Windows"]
    assert texts(tree, ".//ModifyPartition/Format") == ["FAT32", "NTFS", "NTFS"]
    assert texts(tree, ".//ModifyPartition/TypeID") == ["DE94BBA4-06D1-4D40-A16A-BFD50179D6AC"]
    assert texts(tree, ".//ModifyPartition/Active") == []


def test_a_bios_disk_gets_an_active_system_partition_recovery_and_windows() -> None:
    tree = parse(FirmwareKind.BIOS)
    assert texts(tree, ".//CreatePartition/Type") == ["Primary"] * 3
    assert texts(tree, ".//ModifyPartition/Label") == ["System", "Recovery", "Windows"]
    assert texts(tree, ".//ModifyPartition/TypeID") == ["0x27"]
    assert texts(tree, ".//ModifyPartition/Active") == ["true"]


@both
def test_windows_goes_to_the_partition_that_takes_the_rest_of_the_disk(firmware: FirmwareKind) -> None:
    tree = parse(firmware)
    created = tree.findall(".//u:CreatePartition", NAMESPACES)
    orders = [int(number) for number in texts(tree, ".//CreatePartition/Order")]
    assert orders == list(range(1, len(created) + 1))
    growing = [order for order, each in zip(orders, created, strict=True) if texts(each, "Extend") == ["true"]]
    assert growing == [len(created)] == [WINDOWS_PARTITION[firmware]]
    assert texts(tree, ".//InstallTo/PartitionID") == [str(WINDOWS_PARTITION[firmware])]
    windows = tree.findall(".//u:ModifyPartition", NAMESPACES)[-1]
    assert texts(windows, "Label") == ["Windows"] and texts(windows, "Letter") == ["C"]
    assert all(texts(each, "Extend") or texts(each, "Size") for each in created)


@both
def test_every_item_of_a_list_is_added(firmware: FirmwareKind) -> None:
    tree = parse(firmware)
    add = f"{{{NAMESPACES['wcm']}}}action"
    for name in ("Disk", "CreatePartition", "ModifyPartition", "MetaData", "LocalAccount", "RunSynchronousCommand"):
        for element in tree.iterfind(f".//u:{name}", NAMESPACES):
            assert element.get(add) == "add"


def test_only_a_bios_machine_skips_the_checks_that_it_cannot_pass() -> None:
    assert len(texts(parse(FirmwareKind.BIOS), ".//RunSynchronousCommand/Path")) == 2
    assert texts(parse(FirmwareKind.UEFI), ".//RunSynchronousCommand/Path") == []


@both
def test_the_settings_arrive_where_windows_reads_them(firmware: FirmwareKind) -> None:
    settings = UnattendSettings(
        locale="de-DE",
        keyboard="0407:00000407",
        time_zone="W. Europe Standard Time",
        administrator="lehrer",
        password="p<&>\"'",
        organization="Schule & Co",
        product_key="vk7jg-nphtm-c97jm-9mpgt-3v66t",
        image_index=6,
        disk=1,
    )
    tree = parse(firmware, settings)
    assert texts(tree, ".//ComputerName") == ["PC-01"]
    assert set(texts(tree, ".//UserLocale")) == {"de-DE"}
    assert set(texts(tree, ".//InputLocale")) == {"0407:00000407"}
    assert texts(tree, ".//TimeZone") == ["W. Europe Standard Time"]
    assert texts(tree, ".//LocalAccount/Name") == ["lehrer"]
    assert texts(tree, ".//LocalAccount/Group") == ["Administrators"]
    assert texts(tree, ".//RegisteredOrganization") == ["Schule & Co"]
    assert texts(tree, ".//ProductKey/Key") == ["VK7JG-NPHTM-C97JM-9MPGT-3V66T"]
    assert texts(tree, ".//MetaData/Value") == ["6"]
    assert texts(tree, ".//Disk/DiskID") == texts(tree, ".//InstallTo/DiskID") == ["1"]
    (encoded,) = texts(tree, ".//Password/Value")
    assert base64.b64decode(encoded).decode("utf-16-le") == "p<&>\"'Password"
    assert texts(tree, ".//Password/PlainText") == ["false"]


def test_without_password_and_product_key_neither_is_written() -> None:
    tree = parse(FirmwareKind.UEFI)
    assert texts(tree, ".//Password") == []
    assert texts(tree, ".//ProductKey/Key") == []


def test_the_password_is_not_readable_in_the_file() -> None:
    settings = UnattendSettings(password="correct horse")
    assert "correct" not in render_unattend(UnattendMachine("PC-01", FirmwareKind.UEFI), settings)


@pytest.mark.parametrize("name", ["a", "PC-01", "room-12-seat-03", "X" * 15, "1a"])
def test_names_that_windows_takes_are_taken(name: str) -> None:
    check_computer_name(name)


@pytest.mark.parametrize(
    "name", ["", "X" * 16, "12345", "-pc", "pc-", "pc_01", "pc 01", "pc.01", "pc\n", "zoë", "a<b>", "٣", "pc٣"]
)
def test_names_that_windows_refuses_are_refused_before(name: str) -> None:
    with pytest.raises(UserError, match=r"roomcast machine rename") as caught:
        render_unattend(UnattendMachine(name, FirmwareKind.UEFI))
    assert "\n" not in str(caught.value)


def test_a_name_that_is_too_long_is_told_its_length() -> None:
    with pytest.raises(UserError, match=r"has 16 characters.* at most 15"):
        check_computer_name("classroom-pc-016")


@pytest.mark.parametrize(
    "wrong",
    [
        {"administrator": ""},
        {"administrator": "a" * 21},
        {"administrator": "Administrator"},
        {"administrator": "guest"},
        {"administrator": "a/b"},
        {"administrator": "a\n"},
        {"administrator": "trailing."},
        {"locale": "english"},
        {"locale": "en_GB"},
        {"locale": "en-GB\n"},
        {"keyboard": "<x>"},
        {"time_zone": ""},
        {"time_zone": "UTC\n"},
        {"password": "a" * 128},
        {"password": "a\0"},
        {"organization": "a\x1b"},
        {"product_key": "12345"},
        {"image_index": 0},
        {"disk": -1},
    ],
)
def test_a_setting_that_windows_refuses_is_refused_before(wrong: dict[str, str]) -> None:
    settings = dataclasses.replace(UnattendSettings(), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError) as caught:
        render_unattend(UnattendMachine("PC-01", FirmwareKind.UEFI), settings)
    assert "\n" not in str(caught.value)


@given(
    st.sampled_from(list(FirmwareKind)),
    st.text(max_size=40) | st.sampled_from(["</Name><x/>", "]]>", "&lt;", "{{ x }}"]),
)
def test_whatever_the_values_are_they_stay_text(firmware: FirmwareKind, value: str) -> None:
    fields = {field.name: value for field in dataclasses.fields(UnattendContext) if field.type in (str, "str")}
    context = UnattendContext(firmware=firmware, image_index=1, disk=0, windows_partition=3, **fields)
    tree = etree.fromstring(Renderer(None).render_template(context.template, context).encode())
    plain = etree.fromstring(
        render_unattend(
            UnattendMachine("PC-01", firmware),
            UnattendSettings(organization="o", product_key="AAAAA-" * 4 + "AAAAA", password="p"),
        ).encode()
    )
    if value:
        assert [element.tag for element in tree.iter()] == [element.tag for element in plain.iter()]
    allowed = "".join(c if c in "\t\n\r" or (c >= " " and c not in "\ufffe\uffff") else "\ufffd" for c in value)
    assert texts(tree, ".//ComputerName") == [allowed]
    assert texts(tree, ".//LocalAccount/DisplayName") == [allowed]
