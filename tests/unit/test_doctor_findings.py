"""What the doctor concludes, without a network: offers, packets of others, queries, the clock."""

import random
from ipaddress import IPv4Address
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from netboot.config import Mode, Settings
from netboot.doctor.findings import Finding, Notes, Severity, exit_code, quoted
from netboot.doctor.host import check_clock
from netboot.doctor.offers import ROWS, Answer, Asked, Offer, judge
from netboot.doctor.packets import build_discover, probe_mac, read_frame, read_payload
from netboot.doctor.subject import Subject
from netboot.wire.dhcp import DhcpPacket, Options, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import (
    BOOT_FILE_NAME,
    CLIENT_ARCH,
    MESSAGE_TYPE,
    SERVER_IDENTIFIER,
    USER_CLASS,
    VENDOR_CLASS,
    VENDOR_OPTIONS,
    MessageType,
)
from netboot.wire.igmp import read_query

OWN = IPv4Address("10.0.0.1")
OTHER = IPv4Address("10.0.0.2")
MAC = probe_mac(bytes(6))


def an_offer(
    server: IPv4Address = OWN,
    *,
    row: str = "BIOS",
    answer: Answer = Answer.ADDRESS,
    is_own: bool | None = None,
    mac: str = "02:00:00:00:00:09",
    boot_file: str = "",
    skips_discovery: bool = True,
) -> Offer:
    own = server == OWN if is_own is None else is_own
    address = IPv4Address("10.0.0.50" if answer is Answer.ADDRESS else "0.0.0.0")
    return Offer(row, answer, server, server, mac, own, address, server, boot_file, 0.1, skips_discovery)


def findings_of(*offers: Offer, mode: Mode = Mode.SERVER, running: bool = True) -> list[Finding]:
    return judge(Asked("eth1", OWN, offers, 4.5), mode, running=running)


def texts(findings: list[Finding], severity: Severity) -> str:
    return "\n".join(finding.text for finding in findings if finding.severity is severity)


def test_an_own_proxy_that_is_silent_on_4011_is_a_problem() -> None:
    offers = [an_offer(OTHER), an_offer(answer=Answer.PROXY, boot_file="bios/core.0")]
    assert "does not answer on port 4011" in texts(findings_of(*offers, mode=Mode.PROXY), Severity.PROBLEM)
    ack = an_offer(answer=Answer.PROXY_ACK, boot_file="bios/core.0")
    assert "4011" not in texts(findings_of(*offers, ack, mode=Mode.PROXY), Severity.PROBLEM)


def test_another_machine_that_answers_with_our_address_is_told() -> None:
    fake = an_offer(is_own=False, mac="02:66:66:66:66:66")
    problems = texts(findings_of(an_offer(), fake), Severity.PROBLEM)
    assert "02:66:66:66:66:66 answers DHCP with this machine's own address" in problems


def test_two_strange_servers_are_a_problem_though_we_are_a_proxy() -> None:
    strangers = [an_offer(OTHER), an_offer(IPv4Address("10.0.0.3"), mac="02:00:00:00:00:03")]
    problems = texts(findings_of(*strangers, mode=Mode.PROXY), Severity.PROBLEM)
    assert "2 DHCP servers on eth1: 10.0.0.2" in problems and "2 DHCP servers on eth1: 10.0.0.3" in problems


def test_a_strange_proxy_is_a_warning() -> None:
    found = findings_of(an_offer(), an_offer(OTHER, answer=Answer.PROXY, boot_file="undionly.kpxe"))
    assert "another proxyDHCP server, 10.0.0.2" in texts(found, Severity.WARNING)


def test_a_server_that_names_our_boot_file_is_well() -> None:
    offer = Offer(
        "BIOS", Answer.ADDRESS, OTHER, OTHER, "02:00:00:00:00:02", False, OTHER, OWN, "bios/core.0", 0.1, False
    )
    found = findings_of(offer, mode=Mode.OFF)
    assert "gives out addresses" in texts(found, Severity.OK)
    assert exit_code(found) == 0


def test_bios_and_uefi_without_a_boot_file_are_a_problem_of_a_running_appliance_only() -> None:
    assert "BIOS, UEFI x64: an address and no boot file" in texts(findings_of(an_offer()), Severity.PROBLEM)
    assert "BIOS" not in texts(findings_of(an_offer(OTHER), running=False), Severity.PROBLEM)


def test_the_exit_code_is_for_problems_alone() -> None:
    notes = Notes("disk")
    assert exit_code([notes.ok("a"), notes.note("b"), notes.warning("c", "d")]) == 0
    assert exit_code([notes.ok("a"), notes.problem("b", "c")]) == 1


@given(st.text(max_size=300))
def test_a_strangers_text_is_one_printable_quote(text: str) -> None:
    shown = quoted(text)
    assert shown.isprintable() and shown[0] == shown[-1] == '"'
    assert '"' not in shown[1:-1].replace('\\"', "").replace("\\\\", "")
    assert len(shown) < 900


def test_our_parser_reads_every_question_that_scapy_builds() -> None:
    for row in ROWS:
        packet = parse_dhcp(build_discover(row, MAC, 7, 4))
        assert packet.message_type is MessageType.DISCOVER
        assert packet.chaddr == MAC and packet.xid == 7 and packet.secs == 4 and packet.wants_broadcast
        assert packet.options.get(CLIENT_ARCH) == (row.arch,)
        assert packet.options.get(VENDOR_CLASS) == row.vendor_class
        assert bool(packet.options.get(USER_CLASS)) == bool(row.user_class)


def test_scapy_reads_our_offer_with_its_file_in_option_67() -> None:
    options = Options().with_option(MESSAGE_TYPE, MessageType.OFFER).with_option(SERVER_IDENTIFIER, OTHER)
    options = options.with_option(BOOT_FILE_NAME, "grub/a").with_option(VENDOR_OPTIONS, b"\x06\x01\x08\xff")
    packet = DhcpPacket(op=2, xid=9, chaddr=MAC, yiaddr=IPv4Address("10.0.0.50"), options=options)
    heard = read_payload(build_dhcp(packet), OTHER)
    assert heard is not None
    assert (heard.xid, heard.server, heard.boot_file, heard.chaddr) == (9, OTHER, "grub/a", MAC)
    assert heard.boot_server is None and heard.skips_discovery


def test_junk_is_no_answer_and_no_error() -> None:
    rng = random.Random(11)
    options = Options().with_option(MESSAGE_TYPE, MessageType.OFFER).with_option(SERVER_IDENTIFIER, OTHER)
    whole = build_dhcp(DhcpPacket(op=2, xid=9, chaddr=MAC, options=options))
    for _ in range(500):
        data = bytearray(whole[: rng.randrange(len(whole))])
        for _ in range(rng.randrange(8)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        read_payload(bytes(data), OTHER)
        read_frame(bytes(data))
        read_query(bytes(data))


def test_queries_are_told_apart_by_version() -> None:
    head = bytes(6) + bytes.fromhex("020000000001") + b"\x08\x00"

    def a_query(message: bytes) -> bytes:
        length = (24 + len(message)).to_bytes(2, "big")
        return head + b"\x46\xc0" + length + bytes(8) + OTHER.packed + bytes([224, 0, 0, 1]) + b"\x94\x04\0\0" + message

    versions = []
    for message in (b"\x11\x00" + bytes(6), b"\x11\x64" + bytes(6), b"\x11\x64" + bytes(10)):
        query = read_query(a_query(message) + bytes(20))  # padding of a short frame
        assert query is not None and query.source == OTHER and query.mac.hex(":") == "02:00:00:00:00:01"
        versions.append(query.version)
    assert versions == [1, 2, 3]
    assert read_query(a_query(b"\x16\x00" + bytes(6))) is None


def test_a_clock_of_last_century_is_a_problem_and_one_that_runs_free_a_warning() -> None:
    subject = Subject(Settings(interfaces=("eth1",), data=Path("/nowhere")), (), None, 1.0)
    (early,) = check_clock(subject, now=0.0)
    assert early.severity is Severity.PROBLEM and "1970" in early.text
    (free,) = check_clock(subject, now=1_800_000_000.0, synchronised=False)
    assert free.severity is Severity.WARNING
    (kept,) = check_clock(subject, now=1_800_000_000.0, synchronised=True)
    assert kept.severity is Severity.OK
