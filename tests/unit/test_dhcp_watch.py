"""Looking for another DHCP server: when one counts as there, when as gone, and what keeps it from flapping."""

import random
from ipaddress import IPv4Address

from dhcp_builders import MAC, NETWORK, SERVER, a_discover, a_packet, a_server, reply_to

from netboot.dhcp.watch import (
    ASK_EVERY_S,
    LONGEST_QUIET_S,
    LOOK_S,
    QUIET_S,
    OtherServer,
    ServerAppeared,
    ServersVanished,
    ServerWatch,
)
from netboot.wire.dhcp import BOOTREPLY, BOOTREQUEST, DhcpPacket, build_dhcp, parse_dhcp
from netboot.wire.dhcp_options import CLIENT_ARCH, REQUESTED_ADDRESS, SERVER_IDENTIFIER, VENDOR_CLASS, MessageType

OWN_MAC = bytes.fromhex("525400aa0001")
RIVAL = IPv4Address("10.77.0.9")
RIVAL_MAC = bytes.fromhex("525400bb0009")
RIVAL_IS = OtherServer(RIVAL, "52:54:00:bb:00:09")


def a_watch(seed: int = 1) -> ServerWatch:
    return ServerWatch(OWN_MAC, frozenset({SERVER}), random.Random(seed))


def an_answer(
    kind: MessageType = MessageType.OFFER, server: IPv4Address = RIVAL, address: IPv4Address = NETWORK[50]
) -> DhcpPacket:
    return a_packet(kind, (SERVER_IDENTIFIER, server), op=BOOTREPLY, yiaddr=address)


def run_until(watch: ServerWatch, until: float) -> list[tuple[float, DhcpPacket]]:
    """Let time go by in silence; what was asked, and when."""
    asked = []
    while (due := watch.next_timeout()) <= until:
        watch.handle_timeout(due)
        asked += [(due, packet) for packet in watch.packets_to_send()]
    return asked


def hear(watch: ServerWatch, now: float, packet: DhcpPacket | None = None) -> None:
    watch.receive(packet or an_answer(), RIVAL, RIVAL_MAC, now)


def vanish(watch: ServerWatch, since: float) -> float:
    """Silence until the watch believes in it; when that was."""
    while watch.other is not None:
        due = watch.next_timeout()
        assert due < since + 3 * LONGEST_QUIET_S
        watch.handle_timeout(due)
    return due


def test_first_look_asks_several_times_plain_and_pxe_and_finds_nobody() -> None:
    watch = a_watch()
    assert not watch.has_looked
    asked = run_until(watch, LOOK_S)
    assert [at for at, _ in asked] == [0.0, 0.0, 1.0, 1.0, 3.0, 3.0]
    assert watch.has_looked and watch.other is None and watch.events() == []


def test_questions_are_discovers_of_a_client_that_is_always_the_same_and_takes_a_broadcast() -> None:
    watch = a_watch()
    packets = [parse_dhcp(build_dhcp(packet)) for _, packet in run_until(watch, 2 * ASK_EVERY_S)]
    assert {packet.message_type for packet in packets} == {MessageType.DISCOVER}
    assert all(packet.op == BOOTREQUEST and packet.wants_broadcast for packet in packets)
    (mac,) = {packet.mac for packet in packets}
    assert int(mac[:2], 16) & 0b11 == 0b10, "locally administered, and no group"
    assert mac != OWN_MAC.hex(":")
    pxe = [packet for packet in packets if VENDOR_CLASS in packet.options]
    assert len(pxe) == len(packets) / 2
    assert all(packet.options.get(CLIENT_ARCH) == (7,) for packet in pxe)
    assert len({packet.xid for packet in packets}) == len(packets)


def test_asking_mac_differs_from_an_own_mac_that_is_locally_administered_too() -> None:
    watch = ServerWatch(bytes.fromhex("020000000001"), frozenset({SERVER}), random.Random(1))
    watch.handle_timeout(0.0)
    assert watch.packets_to_send()[0].mac == "06:00:00:00:00:01"


def test_offer_during_the_first_look_ends_it() -> None:
    watch = a_watch()
    watch.handle_timeout(0.0)
    hear(watch, 0.4)
    assert watch.has_looked and watch.other == RIVAL_IS
    assert watch.events() == [ServerAppeared(RIVAL_IS)]
    assert watch.next_timeout() >= 0.4 + ASK_EVERY_S


def test_server_that_appears_later_is_told_once() -> None:
    watch = a_watch()
    run_until(watch, 200.0)
    for second in range(3):
        hear(watch, 200.0 + second)
    assert watch.events() == [ServerAppeared(RIVAL_IS)]
    assert watch.other == RIVAL_IS


def test_ack_and_nak_to_others_show_a_server_too() -> None:
    for kind, address in ((MessageType.ACK, NETWORK[50]), (MessageType.NAK, IPv4Address(0))):
        watch = a_watch()
        hear(watch, 1.0, an_answer(kind, address=address))
        assert watch.other == RIVAL_IS


def test_proxies_requests_and_our_own_answers_by_a_relay_count_for_nothing() -> None:
    watch = a_watch()
    hear(watch, 1.0, an_answer(address=IPv4Address(0)))
    hear(watch, 1.0, an_answer(MessageType.ACK, address=IPv4Address(0)))
    hear(watch, 1.0, an_answer(server=SERVER))
    hear(watch, 1.0, a_discover())
    hear(watch, 1.0, a_packet(None, op=BOOTREPLY, yiaddr=NETWORK[50]))
    assert watch.other is None and watch.events() == []


def test_answer_without_a_server_identifier_is_of_its_source() -> None:
    watch = a_watch()
    hear(watch, 1.0, a_packet(MessageType.OFFER, op=BOOTREPLY, yiaddr=NETWORK[50]))
    assert watch.other == RIVAL_IS


def test_other_appliance_is_a_server_to_us() -> None:
    """Our own server's answer, as another appliance hears it."""
    theirs = reply_to(a_server(), a_discover(mac=MAC)).packet
    watch = ServerWatch(OWN_MAC, frozenset({RIVAL}), random.Random(1))
    watch.receive(parse_dhcp(build_dhcp(theirs)), SERVER, RIVAL_MAC, 1.0)
    assert watch.other == OtherServer(SERVER, RIVAL_IS.mac)


def test_server_is_gone_after_a_long_silence_and_a_last_look() -> None:
    watch = a_watch()
    run_until(watch, 10.0)
    hear(watch, 10.0)
    watch.events()
    gone = vanish(watch, 10.0)
    assert gone >= 10.0 + QUIET_S + LOOK_S
    assert gone <= 10.0 + 1.5 * QUIET_S + 1.5 * ASK_EVERY_S + LOOK_S
    assert watch.events() == [ServersVanished(RIVAL_IS)]


def test_answer_to_the_last_look_keeps_it() -> None:
    watch = a_watch()
    hear(watch, 1.0)
    before = 0.0
    while watch.next_timeout() - before > LOOK_S:  # until the last look begins
        before = watch.next_timeout()
        watch.handle_timeout(before)
    hear(watch, before + 2.0)
    run_until(watch, before + LOOK_S + ASK_EVERY_S)
    assert watch.other == RIVAL_IS


def test_server_that_is_heard_again_and_again_stays() -> None:
    watch = a_watch()
    hear(watch, 0.0)
    for minute in range(1, 120):
        run_until(watch, minute * 60.0)
        hear(watch, minute * 60.0)
    assert watch.events() == [ServerAppeared(RIVAL_IS)]


def test_each_return_makes_the_next_silence_that_is_needed_twice_as_long_up_to_an_hour() -> None:
    watch = a_watch()
    run_until(watch, LOOK_S)
    now, waits = LOOK_S, []
    for _ in range(6):
        hear(watch, now)
        gone = vanish(watch, now)
        waits.append(gone - now)
        now = gone + 1.0
    for number, waited in enumerate(waits):
        least = min(QUIET_S * 2**number, LONGEST_QUIET_S)
        assert waited >= least
        assert waited <= 1.5 * least + 2 * ASK_EVERY_S + LOOK_S


def test_long_calm_is_forgiven() -> None:
    watch = a_watch()
    run_until(watch, LOOK_S)
    hear(watch, LOOK_S)
    gone = vanish(watch, LOOK_S)
    run_until(watch, gone + 2 * LONGEST_QUIET_S)
    hear(watch, gone + 2 * LONGEST_QUIET_S)
    waited = vanish(watch, gone + 2 * LONGEST_QUIET_S) - gone - 2 * LONGEST_QUIET_S
    assert waited < 1.5 * QUIET_S + 2 * ASK_EVERY_S + LOOK_S


def test_two_appliances_that_met_each_other_do_not_come_back_at_one_time() -> None:
    seeds = random.Random(7)
    apart = []
    for _ in range(20):
        ends = []
        for _ in range(2):
            watch = a_watch(seeds.getrandbits(32))
            hear(watch, 0.0)
            ends.append(vanish(watch, 0.0))
        apart.append(abs(ends[0] - ends[1]))
    assert sum(gap > LOOK_S for gap in apart) >= 16


def test_made_up_servers_take_no_memory() -> None:
    watch = a_watch()
    for number in range(1000):
        watch.receive(an_answer(server=IPv4Address(0x0A000000 + number)), RIVAL, RIVAL_MAC, 1.0)
        watch.events()
    assert len(watch._heard) <= 16
    assert watch.other == OtherServer(IPv4Address(0x0A000000 + 999), RIVAL_IS.mac)


def test_client_that_takes_a_strangers_offer_makes_us_ask_at_once_and_not_too_often() -> None:
    watch = a_watch()
    run_until(watch, 20.0)
    taken = a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, RIVAL), (REQUESTED_ADDRESS, NETWORK[50]))
    asked = []
    for tenth in range(200):
        watch.overhear(taken, 20.0 + tenth / 10)
        asked += run_until(watch, 20.0 + tenth / 10)
    assert [at for at, _ in asked] == [20.0, 20.0, 30.0, 30.0]
    assert watch.other is None, "a client's word is no proof"


def test_requests_to_us_and_other_packets_of_clients_raise_no_suspicion() -> None:
    watch = a_watch()
    run_until(watch, 20.0)
    due = watch.next_timeout()
    for packet in (
        a_packet(MessageType.REQUEST, (SERVER_IDENTIFIER, SERVER)),
        a_packet(MessageType.REQUEST, (REQUESTED_ADDRESS, NETWORK[50])),
        a_packet(MessageType.RELEASE, (SERVER_IDENTIFIER, RIVAL)),
    ):
        assert not watch.overhear(packet, 20.0)
    assert watch.next_timeout() == due
