"""The settings file: every mistake of it at once, each with its line; what goes before what."""

from dataclasses import fields
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from netboot.config import ConfigError, Mode, ReservationSettings, Settings, SubnetSettings
from netboot.config.check import Placed, check_own_networks
from netboot.config.keys import KEYS, RESERVATION_KEYS, SUBNET_KEYS
from netboot.config.loading import Loaded, load
from netboot.errors import UserError

WHOLE = """\
interfaces = ["eth1", "eth2"]
mode = "server"
dns = ["10.1.0.2", "10.1.0.3"]
domain = "lab.example.org"

[[subnet]]
network = "10.1.0.0/24"
pools = ["10.1.0.100-10.1.0.150", "10.1.0.200-10.1.0.250"]
routers = ["10.1.0.1"]
lease-s = 600

[[subnet]] # behind a relay agent
network = "10.2.0.0/16"
dns = []
domain = "far.example.org"

[[reservation]]
mac = "52-54-00-AB-CD-EF"
address = "10.1.0.20"
hostname = "pc-07"

[[reservation]]
client-id = "01:52:54:00:00:00:01"
address = "10.2.7.7"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "roomcast.toml"


def read(file: Path, text: str, environment: dict[str, str] | None = None, **flags: object) -> Loaded:
    file.write_text(text)
    return load(flags, file, environment or {})


def mistakes(file: Path, text: str, environment: dict[str, str] | None = None, **flags: object) -> list[str]:
    with pytest.raises(ConfigError) as told:
        read(file, text, environment, **flags)
    return [str(mistake).replace(f"{file}:", "line ") for mistake in told.value.mistakes]


def test_whole_file_is_read(file: Path) -> None:
    settings = read(file, WHOLE).settings
    assert settings.interfaces == ("eth1", "eth2") and settings.interface == "eth1"
    near, far = settings.subnets
    pools = tuple(
        (IPv4Address(f"10.1.0.{first}"), IPv4Address(f"10.1.0.{last}")) for first, last in ((100, 150), (200, 250))
    )
    assert near == SubnetSettings(IPv4Network("10.1.0.0/24"), pools, (IPv4Address("10.1.0.1"),), lease_s=600)
    assert far == SubnetSettings(IPv4Network("10.2.0.0/16"), dns=(), domain="far.example.org")
    assert settings.reservations == (
        ReservationSettings(IPv4Address("10.1.0.20"), "52:54:00:ab:cd:ef", hostname="pc-07"),
        ReservationSettings(IPv4Address("10.2.7.7"), client_id=bytes.fromhex("01525400000001")),
    )


def test_every_mistake_has_its_line_key_and_an_example(file: Path) -> None:
    text = """\
interfaces = ["eth1", "two words"]
http_port = 8080

mode = "relay"
[[subnet]]
network = "10.1.0.7/24"
[[subnet]]
network = "10.2.0.0/24"
pools = [
  "10.2.0.100-10.2.0.150",
  "10.2.0.250-10.2.0.200",
  "10.2.0.140-10.2.0.160",
]
rooters = []
[[reservation]]
mac = "01:00:5e:00:00:01"
address = "10.2.0.9"
[[reservation]]
address = "10.2.0.10"
[[reservation]]
mac = "52:54:00:00:00:02"
address = "10.2.0.11"
hostname = "pc_07"
"""
    assert mistakes(file, text) == [
        "line 1: interfaces[2]: 'two words' is not the name of an interface; for example interfaces = [\"eth1\"]",
        "line 2: http_port: no such setting; did you mean http-port?",
        "line 4: mode: 'relay' is not server, proxy, auto or off; for example mode = \"auto\"",
        "line 6: subnet[1].network: 10.1.0.7/24 has host bits: the network is 10.1.0.0/24; "
        'for example network = "10.20.0.0/24"',
        'line 11: subnet[2].pools[2]: 10.2.0.250 is above 10.2.0.200; for example pools = ["10.20.0.100-10.20.0.250"]',
        "line 14: subnet[2].rooters: no such key of a subnet; did you mean routers?",
        "line 16: reservation[1].mac: '01:00:5e:00:00:01' is the MAC of no machine; "
        'for example mac = "52:54:00:12:34:56"',
        "line 18: reservation[2]: a reservation needs a mac or a client-id, one of the two; "
        'for example mac = "52:54:00:12:34:56"',
        "line 23: reservation[3].hostname: 'pc_07' is not a host name: letters, digits and inner hyphens, 63 at most; "
        'for example hostname = "pc-07"',
    ]


def test_what_contradicts_itself_is_told_beside_what_cannot_be_read(file: Path) -> None:
    text = """\
interfaces = ["eth1"]
tpyo = 1
data-port-base = 7050
[[subnet]]
network = "10.1.0.0/24"
pools = ["10.1.0.100-10.1.0.150", "10.1.0.150-10.1.0.160", "10.1.0.0-10.1.0.9", "10.9.0.1-10.9.0.2"]
routers = ["10.2.0.1"]
[[subnet]]
network = "10.1.0.128/25"
[[reservation]]
mac = "52:54:00:00:00:01"
address = "10.1.0.5"
[[reservation]]
mac = "52:54:00:00:00:01"
address = "10.1.0.5"
[[reservation]]
mac = "52:54:00:00:00:03"
address = "10.1.0.255"
"""
    assert mistakes(file, text) == [
        "line 2: tpyo: no such setting; docs/configuration.md lists them",
        "line 3: data-port-base: control ports 7101 to 7199 overlap data ports 7050 to 7305",
        "line 6: subnet[1].pools[2]: 10.1.0.150-10.1.0.160 overlaps 10.1.0.100-10.1.0.150",
        "line 6: subnet[1].pools[3]: 10.1.0.0-10.1.0.9 is not inside 10.1.0.1-10.1.0.254",
        "line 6: subnet[1].pools[4]: 10.9.0.1-10.9.0.2 is not inside 10.1.0.1-10.1.0.254",
        "line 7: subnet[1].routers[1]: 10.2.0.1 is not inside 10.1.0.0/24: machines cannot reach it",
        "line 9: subnet[2].network: 10.1.0.128/25 overlaps 10.1.0.0/24 of subnet[1]",
        "line 14: reservation[2].mac: 52:54:00:00:00:01 is in reservation[1] already",
        "line 15: reservation[2].address: 10.1.0.5 is in reservation[1] already",
        "line 18: reservation[3].address: 10.1.0.255 is the network's own or its broadcast address in 10.1.0.0/24",
        "line 18: reservation[3].address: 10.1.0.255 is the network's own or its broadcast address in 10.1.0.128/25",
    ]


def own_mistakes(file: Path, text: str, **own: str) -> list[str]:
    loaded = read(file, text)
    assert loaded.document is not None
    placed = Placed({}, loaded.places, loaded.document.place)
    found = check_own_networks(placed, loaded.settings, {name: IPv4Interface(each) for name, each in own.items()})
    return [str(mistake).replace(f"{file}:", "line ") for mistake in found]


def test_settings_are_held_against_the_addresses_of_the_interfaces(file: Path) -> None:
    assert own_mistakes(file, WHOLE, eth1="10.1.0.1/24", eth2="10.3.0.1/24") == []
    assert own_mistakes(file, WHOLE, eth1="10.1.0.120/23", eth2="10.2.7.7/16") == [
        "line 7: subnet[1].network: 10.1.0.0/24 overlaps 10.1.0.0/23, the network of eth1",
        "line 8: subnet[1].pools[1]: 10.1.0.100-10.1.0.150 holds 10.1.0.120, the address of eth1",
        "line 24: reservation[2].address: 10.2.7.7 is the address of eth2",
    ]
    text = 'interfaces = ["a", "b"]\npool = "10.7.0.1-10.7.0.9"\nrouter = "10.1.0.0"\n' + (
        '[[reservation]]\nmac = "52:54:00:00:00:01"\naddress = "10.5.0.1"\n'
    )
    assert own_mistakes(file, text, a="10.7.0.5/24", b="10.7.0.200/25") == [
        "line 1: interfaces: a (10.7.0.5/24) and b (10.7.0.200/25) are in one network: serve one of them",
        "line 2: pool: 10.7.0.1-10.7.0.9 holds 10.7.0.5, the address of a",
        "line 3: router: 10.1.0.0 is not inside 10.7.0.0/24, 10.7.0.128/25",
        "line 6: reservation[1].address: 10.5.0.1 is a machine's address in none of 10.7.0.0/24, 10.7.0.128/25",
    ]


def test_pool_needs_a_network_without_a_subnet_of_its_own(file: Path) -> None:
    text = 'interfaces = ["a"]\npool = "10.7.0.1-10.7.0.9"\n[[subnet]]\nnetwork = "10.7.0.0/24"\n'
    assert own_mistakes(file, text, a="10.7.0.50/24") == [
        "line 2: pool: 10.7.0.1-10.7.0.9 is not inside a network without [[subnet]]"
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'mode = "server"\nhttp-port = \n', ":2: no TOML: Invalid value (column 13)"),
        (b'mode = "a"\nmode = "b"\n', ":2: no TOML: Cannot overwrite a value (column 11)"),
        (b"# x\n[[subnet]\n", ":2: no TOML: "),
        (b'x = "', ": no TOML: "),
        (b'mode = "proxy\nx = 1\n', ":1: no TOML: Illegal character '\\n' (column 14): close the text with \""),
        (b"router = 10.0.0.1\n", 'texts and addresses stand in "quotes"'),
        (b"[subnet]\n[subnet]\n", ":2: no TOML: Cannot declare"),
        (b"mode server\n", 'settings are written name = "value"'),
        (b"# \xff\xfe\n", ":1: not UTF-8 text"),
        (b"#\n# \xff\n", ":2: not UTF-8 text"),
        (b"x = " + b"[" * 20000, "nested too deep"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(file: Path, text: bytes, told: str) -> None:
    file.write_bytes(text)
    with pytest.raises(ConfigError) as error:
        load({}, file, {})
    (mistake,) = error.value.mistakes
    assert str(file) in str(mistake) and told in str(mistake)


def test_a_file_from_an_editor_of_windows_is_read(file: Path) -> None:
    file.write_bytes(b'\xef\xbb\xbfinterfaces = ["eth1"]\r\nlease-s = 700\r\n')
    loaded = load({}, file, {})
    assert loaded.settings.lease_s == 700 and loaded.places["lease_s"] == f"{file}:2"


def test_a_directory_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a directory: name the file in it"):
        load({}, tmp_path, {})


def test_flag_goes_before_variable_before_file_before_default(file: Path) -> None:
    text = 'interfaces = ["eth1"]\nhttp-port = 81\nlease-s = 700\nidle-s = 20\n'
    environment = {"ROOMCAST_HTTP_PORT": "82", "ROOMCAST_LEASE_S": "800", "ROOMCAST_DNS": "10.0.0.1, 10.0.0.2"}
    loaded = read(file, text, environment, http_port=83)
    settings = loaded.settings
    assert (settings.http_port, settings.lease_s, settings.idle_s, settings.silence_s) == (83, 800, 20.0, 300.0)
    assert settings.dns == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    assert loaded.places["http_port"] == "--http-port"
    assert loaded.places["lease_s"] == "ROOMCAST_LEASE_S"
    assert loaded.places["idle_s"] == f"{file}:4"
    assert "silence_s" not in loaded.places


def test_mistake_is_told_though_a_flag_overrides_it(file: Path) -> None:
    text = 'interfaces = ["eth1"]\nhttp-port = 0\n'
    assert mistakes(file, text, {"ROOMCAST_MODE": "junk"}, http_port=80, mode="proxy") == [
        "line 2: http-port: 0 is not in 1 to 65535; for example http-port = 80",
        "ROOMCAST_MODE: mode: 'junk' is not server, proxy, auto or off; for example mode = \"auto\"",
    ]


def test_variable_names_the_file_and_a_mistyped_one_is_told(file: Path) -> None:
    file.write_text('interfaces = ["eth1"]\nmode = "proxy"\npool = "10.0.0.1-10.0.0.2"\n')
    loaded = load({}, None, {"ROOMCAST_CONFIG": str(file), "ROOMCAST_HTTP_PROT": "80"})
    assert loaded.settings.mode is Mode.PROXY and loaded.file == file
    assert loaded.warnings == (
        "ROOMCAST_HTTP_PROT: no setting has this variable; did you mean ROOMCAST_HTTP_PORT?",
        f"{file}:3: pool: not used in mode proxy, which gives no addresses",
    )


@pytest.mark.parametrize(
    "text",
    [
        'subnet = "x"',
        "subnet = 3",
        "[subnet]",
        'subnet = ["x"]',
        "[[subnet]]",
        "[[subnet]]\nnetwork = 3",
        '[[subnet]]\nnetwork = "10.0.0.0"',
        '[[subnet]]\nnetwork = "224.0.0.0/24"',
        '[[subnet]]\nnetwork = "10.0.0.0/31"',
        'pool = ["10.0.0.1-10.0.0.2"]',
        'router = "255.255.255.255"',
        'domain = "a..b"',
        "domain = 7",
        "lease-s = 59",
        "lease-s = 1.5",
        "silence-s = nan",
        "silence-s = inf",
        'data = "a\\u0000b"',
        "data = 7",
        'page = "localhost:80"',
        'page = "127.0.0.1:0"',
        "interfaces = []",
        'interfaces = ["eth1", "eth1"]',
        'interfaces = ["eth1\\n"]',
        '[[reservation]]\nmac = "52:54:00:00:00:01"\nclient-id = "00:01"\naddress = "10.0.0.1"',
        '[[reservation]]\nclient-id = "xyz"\naddress = "10.0.0.1"',
        '[[reservation]]\nmac = "52:54:00:00:00:01"',
        "control-port-base = 4000",
        'boot-programs = "/usr/lib/ipxe/undionly.kpxe"',
        'boot-programs = { bois = "/usr/lib/ipxe/undionly.kpxe" }',
        'boot-programs = { ipxe-bios = "/usr/lib/ipxe/undionly.kpxe" }',
        "boot-programs = { bios = 7 }",
        'boot-programs = { bios = "/" }',
        'boot-programs = { bios = "/boot/a b.0" }',
        'boot-programs = { bios = "/boot/..." }',
    ],
)
def test_value_that_cannot_be_is_a_mistake_with_its_line(file: Path, text: str) -> None:
    given = "" if text.startswith("interfaces") else 'interfaces = ["eth1"]\n'
    for told in mistakes(file, given + text):
        assert told.startswith("line ") and "\n" not in told


def test_every_field_of_the_settings_has_its_key_and_every_key_a_right_example(file: Path) -> None:
    for keys, kind in ((KEYS, Settings), (SUBNET_KEYS, SubnetSettings), (RESERVATION_KEYS, ReservationSettings)):
        assert {key.field for key in keys} == {each.name for each in fields(kind)}
        assert all(key.meaning and key.example for key in keys)
    for key in KEYS:
        text = key.example if key.name == "interfaces" else f'interfaces = ["eth1"]\n{key.example}\n'
        assert key.field in read(file, text).places
    for table, keys in (("subnet", SUBNET_KEYS), ("reservation", RESERVATION_KEYS)):
        chosen = [key for key in keys if key.name != "client-id"]
        body = "\n".join(key.example for key in chosen)
        assert read(file, f'interfaces = ["eth1"]\n[[{table}]]\n{body}\n')


def test_each_boot_program_that_cannot_be_is_told_and_what_was_meant(file: Path) -> None:
    text = 'interfaces = ["eth1"]\n[boot-programs]\nbois = "/boot/x.0"\nuefi-x64 = "/boot/$(reboot).efi"\n'
    first, second = mistakes(file, text)
    assert first.startswith("line 3: boot-programs.bois: no such kind of firmware; did you mean bios?")
    assert second.startswith("line 4: boot-programs.uefi-x64: '$(reboot).efi': its name is to be letters")
