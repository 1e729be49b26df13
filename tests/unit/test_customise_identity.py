"""What a Linux machine is given after its image, and that a second run gives it nothing."""

import pytest

from imager.customise.identity import (
    MARK,
    MakeHostKeys,
    RootFacts,
    WriteFile,
    build_mark,
    check_hostname,
    name_owner,
    plan_identity,
    set_own_address,
)
from imager.errors import TargetError
from imager.wire.messages import Identity

FRESH = "0123456789abcdef0123456789abcdef"
OLD = "ffffffffffffffffffffffffffffffff"
OWNER = name_owner("4c4c4544-0043-3010", "52:54:00:aa:00:01", "DISK0001")
HOSTS = "127.0.0.1\tlocalhost\n127.0.1.1\tgolden\n::1\tlocalhost ip6-localhost\n"


def golden_facts(**files: str) -> RootFacts:
    held = {"etc/hostname": "golden\n", "etc/hosts": HOSTS, "etc/machine-id": OLD + "\n"}
    return RootFacts({**held, **files}, True, True, ("rsa", "ed25519"), "ssh-rsa AAA\nssh-ed25519 BBB\n")


@pytest.mark.parametrize(
    "hostname", ["pc-01", "PC01", "a", "3com", "lab.example.org", "x" * 63, "10-77-0-1", "a" * 31 + "." + "b" * 32]
)
def test_names_of_rfc_1123_are_taken(hostname: str) -> None:
    assert check_hostname(hostname) == hostname


@pytest.mark.parametrize(
    "hostname",
    ["", "-a", "a-", "a..b", ".a", "a.", "a_b", "a b", "a\nb", "a\n", "x" * 64, "a" * 32 + "." + "b" * 32, "pc;reboot",
     "$(id)", "../../etc/passwd", "é", "10.77.0.1", "42", "ⅷ", "a\0b"],
)  # fmt: skip
def test_hostile_and_malformed_hostnames_are_refused(hostname: str) -> None:
    with pytest.raises(TargetError, match="letters, digits and dashes"):
        check_hostname(hostname)


def test_a_golden_system_gets_all_of_its_identity() -> None:
    changes = plan_identity(golden_facts(), Identity("pc-01"), FRESH, OWNER)
    assert changes == [
        WriteFile("etc/hostname", "pc-01\n"),
        WriteFile("etc/hosts", HOSTS.replace("golden", "pc-01")),
        WriteFile("etc/machine-id", FRESH + "\n", 0o444),
        MakeHostKeys(("rsa", "ed25519")),
    ]


def test_a_system_that_has_its_identity_is_left_alone() -> None:
    facts = golden_facts(**{"etc/hostname": "pc-01\n", "etc/hosts": HOSTS.replace("golden", "pc-01")})
    mark = build_mark(facts, OWNER)
    assert mark is not None
    marked = golden_facts(**{**facts.files, MARK: mark.text})
    assert plan_identity(marked, Identity("pc-01"), FRESH, OWNER) == []
    assert build_mark(marked, OWNER) is None


def test_a_mark_of_another_state_is_not_believed() -> None:
    mark = build_mark(golden_facts(**{"etc/machine-id": FRESH + "\n"}), OWNER)
    assert mark is not None
    changes = plan_identity(golden_facts(**{MARK: mark.text}), Identity(""), FRESH, OWNER)
    assert WriteFile("etc/machine-id", FRESH + "\n", 0o444) in changes


def test_a_mark_of_another_machine_counts_as_none() -> None:
    facts = golden_facts(**{"etc/hostname": "pc-01\n", "etc/hosts": HOSTS.replace("golden", "pc-01")})
    mark = build_mark(facts, name_owner("4c4c4544-0043-3010", "52:54:00:aa:00:02", "DISK0001"))
    assert mark is not None
    captured = golden_facts(**{**facts.files, MARK: mark.text})
    assert plan_identity(captured, Identity("pc-01"), FRESH, OWNER) == [
        WriteFile("etc/machine-id", FRESH + "\n", 0o444),
        MakeHostKeys(("rsa", "ed25519")),
    ]


def test_a_mark_without_an_owner_counts_as_none() -> None:
    mark = f'{{"machine_id": "{OLD}", "host_keys": "ssh-rsa AAA\\nssh-ed25519 BBB\\n"}}'
    for owner in (OWNER, ""):
        assert len(plan_identity(golden_facts(**{MARK: mark}), Identity(""), FRESH, owner)) == 2


def test_an_owner_is_a_machine_with_its_disk() -> None:
    facts = ["4c4c4544-0043-3010", "52:54:00:aa:00:01", "DISK0001"]
    others = [name_owner(*[fact + "x" * (i == place) for i, fact in enumerate(facts)]) for place in range(3)]
    assert len({OWNER, *others, name_owner("", facts[0] + facts[1], facts[2])}) == 5
    assert name_owner("4C4C4544-0043-3010", "52:54:00:AA:00:01", "DISK0001 ") == OWNER


@pytest.mark.parametrize("mark", ["", "{", "[]", '{"machine_id": 5}', "null"])
def test_a_damaged_mark_counts_as_none(mark: str) -> None:
    changes = plan_identity(golden_facts(**{MARK: mark}), Identity(""), FRESH, OWNER)
    assert len(changes) == 2


def test_what_was_not_asked_for_stays() -> None:
    assert plan_identity(golden_facts(), Identity("", new_machine_id=False, new_host_keys=False), FRESH, OWNER) == []


def test_a_copy_of_the_machine_id_follows() -> None:
    changes = plan_identity(
        golden_facts(**{"var/lib/dbus/machine-id": OLD}), Identity("", new_host_keys=False), FRESH, OWNER
    )
    assert [change.path for change in changes if isinstance(change, WriteFile)] == [
        "etc/machine-id",
        "var/lib/dbus/machine-id",
    ]


def test_a_system_without_ssh_gets_no_keys() -> None:
    facts = RootFacts({"etc/machine-id": ""})
    assert plan_identity(facts, Identity(""), FRESH, OWNER) == [WriteFile("etc/machine-id", FRESH + "\n", 0o444)]


@pytest.mark.parametrize(("has_sshd", "types"), [(True, ("rsa", "ecdsa", "ed25519")), (False, ("ed25519",))])
def test_keys_are_made_where_the_image_has_none(has_sshd: bool, types: tuple[str, ...]) -> None:
    facts = RootFacts({}, has_ssh=True, has_sshd=has_sshd)
    assert MakeHostKeys(types) in plan_identity(facts, Identity(""), FRESH, OWNER)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "127.0.0.1\tlocalhost\n127.0.1.1\tpc-01\n"),
        ("127.0.0.1 localhost\n10.0.0.5 nas\n", "127.0.0.1 localhost\n127.0.1.1\tpc-01\n10.0.0.5 nas\n"),
        ("# mine\n10.0.0.5 nas\n", "127.0.1.1\tpc-01\n# mine\n10.0.0.5 nas\n"),
        ("127.0.1.1 a\n127.0.1.1 b\n", "127.0.1.1\tpc-01\n"),
        ("127.0.1.1\tpc-01\n", "127.0.1.1\tpc-01\n"),
        ("127.0.1.10 keep\n", "127.0.1.1\tpc-01\n127.0.1.10 keep\n"),
    ],
)
def test_hosts_has_exactly_one_line_for_this_machine(before: str, after: str) -> None:
    assert set_own_address(before, "pc-01") == after
    assert set_own_address(after, "pc-01") == after


def test_a_full_name_brings_its_short_one() -> None:
    assert "127.0.1.1\tpc-01.lab.org pc-01\n" in set_own_address("", "pc-01.lab.org")
