"""Settings: the file, the flags, and every mistake at once."""

from ipaddress import IPv4Address, IPv4Network, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from imager.wire.groups import group_problem
from netboot.config import Mode, cast_group, load_settings
from netboot.dhcp_settings import default_pool
from netboot.errors import UserError


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ROOMCAST_DATA", raising=False)
    monkeypatch.delenv("ROOMCAST_SOCKET", raising=False)
    monkeypatch.setattr("netboot.config.loading.CONFIG_FILE", tmp_path / "none.toml")


def test_flags_alone_are_enough() -> None:
    settings = load_settings({"interfaces": ["eth1"], "pool": "10.0.0.5-10.0.0.9", "mode": None})
    assert settings.interface == "eth1" and settings.mode is Mode.SERVER
    assert settings.pool == (IPv4Address("10.0.0.5"), IPv4Address("10.0.0.9"))
    assert (settings.http_port, settings.page) == (80, ("127.0.0.1", 8670))


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(
        'interfaces = ["eth1"]\nmode = "proxy"\nhttp-port = 8080\ndns = ["10.0.0.1", "10.0.0.2"]\npage = "off"\n'
    )
    settings = load_settings({"http_port": 81}, file)
    assert (settings.interface, settings.mode, settings.http_port) == ("eth1", Mode.PROXY, 81)
    assert settings.dns == (IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2"))
    assert settings.page is None


def test_environment_names_the_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROOMCAST_DATA", str(tmp_path))
    assert load_settings({"interfaces": ["eth1"]}).data == tmp_path
    assert load_settings({"interfaces": ["eth1"], "data": tmp_path / "other"}).data == tmp_path / "other"


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(
        'mode = "relay"\nhttp-port = 0\npool = "10.0.0.9-10.0.0.5"\nrouter = "gateway"\ntpyo = 1\nlease-s = true\n'
    )
    with pytest.raises(UserError) as told:
        load_settings({}, file)
    text = str(told.value)
    for part in (
        "mode: 'relay' is not server, proxy, auto or off",
        "http-port: 0 is not in 1 to 65535",
        "pool: 10.0.0.9 is above 10.0.0.5",
        "router: 'gateway' is not an IPv4 address",
        "tpyo: no such setting; docs/configuration.md lists them",
        "lease-s: True is not a whole number",
        "interfaces: missing",
    ):
        assert part in text
    assert "\n" not in text


def test_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such configuration file"):
        load_settings({"interfaces": ["eth1"]}, tmp_path / "nosuch.toml")


@pytest.mark.parametrize("pool", ["10.0.0.5", "10.0.0.5-", "a-b", "-"])
def test_pool_needs_two_addresses(pool: str) -> None:
    with pytest.raises(UserError, match="pool"):
        load_settings({"interfaces": ["eth1"], "pool": pool})


@pytest.mark.parametrize(
    "network",
    [
        *("10.0.0.0/16", "239.0.0.0/8", "239.77.0.0/24", "junk"),
        *("fe80::/64", "ff12::/96", "ff12::8000:0/97", "ff12::a077:0/119", "ff32::a077:0/112", "ff02::a077:0/112"),
    ],
)
def test_cast_network_without_room_or_that_is_flooded_is_refused(network: str, tmp_path: Path) -> None:
    file = tmp_path / "roomcast.toml"
    file.write_text(f'cast-network = "{network}"\n')
    with pytest.raises(UserError, match="cast-network"):
        load_settings({"interfaces": ["eth1"]}, file)


@pytest.mark.parametrize("network", ["ff12::a077:0/112", "ff15:0:0:7::8000:0/98", "ff18::feff:fc00/118"])
def test_cast_network_of_ipv6_gives_every_session_a_group_that_a_cast_can_have(network: str) -> None:
    settings = load_settings({"interfaces": ["eth1"], "cast_network": network})
    assert settings.cast_network == ip_network(network)
    for number in (0, 1, 1023, 2**32 - 1):
        group = cast_group(settings.cast_network, number)
        assert group in settings.cast_network and group_problem(group) == ""


def test_groups_of_the_link_and_routers_to_pass_contradict_each_other() -> None:
    with pytest.raises(UserError, match=r"cast-ttl: 3 has no effect .* take cast-network ff15::a077:0/112"):
        load_settings({"interfaces": ["eth1"], "cast_network": "ff12::a077:0/112", "cast_ttl": 3})
    assert load_settings({"interfaces": ["eth1"], "cast_network": "ff15::a077:0/112", "cast_ttl": 3}).cast_ttl == 3


@given(
    some.integers(0, 2**32 - 1),
    some.sampled_from(["239.77.0.0/16", "239.0.0.0/16", "239.128.0.0/9", "224.128.0.0/22", "232.0.0.0/10"]),
)
def test_no_session_gets_a_group_that_switches_flood(number: int, network: str) -> None:
    group = cast_group(IPv4Network(network), number)
    assert group in IPv4Network(network)
    assert (int(group) & 0x7FFFFF) >> 8 != 0


def test_default_pool_is_the_upper_half() -> None:
    assert default_pool(IPv4Network("10.77.0.0/24")) == (IPv4Address("10.77.0.128"), IPv4Address("10.77.0.254"))
    with pytest.raises(ValueError, match="no room"):
        default_pool(IPv4Network("10.77.0.0/30"))
