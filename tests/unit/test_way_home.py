"""How machines come home, and what their models teach: the pure core, with a clock in the hand."""

from dataclasses import dataclass, field

from inventories import an_inventory

from imager.wire.messages import FirmwareKind
from netboot.deployment.records import Machine
from netboot.deployment.way_home import (
    FAILED_WITHIN_S,
    HOME_AFTER_S,
    MOST_MODELS,
    Model,
    Tally,
    WaysHome,
    order_ways,
)
from netboot.model import Way

WALL_S = 1_700_000_000.0
BIOS, UEFI = FirmwareKind.BIOS, FirmwareKind.UEFI


def a_machine(
    number: int = 1, firmware: FirmwareKind = UEFI, product: str = "OptiPlex", way: Way | None = None
) -> Machine:
    mac = f"52:54:00:00:00:{number:02x}"
    inventory = an_inventory(mac, firmware=firmware, manufacturer="Dell", product=product)
    return Machine(number, f"pc-{number}", inventory, (), 0.0, 0.0, way)


@dataclass
class Room:
    ways: WaysHome = field(default_factory=lambda: WaysHome({}))
    now: float = 1000.0
    has_agent: bool = True

    def boots(self, machine: Machine, after_s: float = 40.0) -> Way | None:
        """It asks for its GRUB configuration."""
        self.now += after_s
        return self.ways.choose(machine, self.now, WALL_S, has_agent=self.has_agent)

    def says_it_failed(self, machine: Machine, way: Way = Way.CHAINLOAD) -> Way | None:
        self.now += 1
        return self.ways.way_failed(machine, way, self.now, has_agent=self.has_agent)

    def agent_asks(self, machine: Machine) -> bool:
        self.now += 30
        return self.ways.hand_over(machine.id, self.now)

    def is_home(self, machine: Machine) -> None:
        """Its system asks DHCP."""
        self.now += 30
        self.ways.system_seen(machine.inventory.boot_mac, WALL_S)

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.ways.tick(self.now, WALL_S)

    def tally(self, machine: Machine, way: Way) -> Tally:
        return self.ways.tallies(Model.of(machine)).get(way, Tally())


def test_each_firmware_has_its_ways_in_order_and_asks_for_no_other() -> None:
    assert order_ways(BIOS, {}) == (Way.CHAINLOAD, Way.EXIT)
    assert order_ways(UEFI, {}) == (Way.CHAINLOAD, Way.BOOTNEXT, Way.EXIT)
    assert order_ways(BIOS, {}, [Way.BOOTNEXT]) == (Way.CHAINLOAD, Way.EXIT)
    fails = Tally(failed=2, failed_in_a_row=2)
    assert order_ways(UEFI, {Way.CHAINLOAD: fails}) == (Way.BOOTNEXT, Way.EXIT, Way.CHAINLOAD)
    assert order_ways(UEFI, {Way.CHAINLOAD: fails}, [Way.CHAINLOAD]) == (Way.CHAINLOAD, Way.BOOTNEXT, Way.EXIT)


def test_a_machine_that_is_at_home_has_proven_its_way() -> None:
    room, machine = Room(), a_machine()
    assert room.boots(machine) is Way.CHAINLOAD
    room.is_home(machine)
    assert room.tally(machine, Way.CHAINLOAD) == Tally(worked=1, last_s=WALL_S)
    assert room.boots(machine) is Way.CHAINLOAD, "it was restarted soon after, and that is no failure"


def test_a_machine_that_is_back_at_once_tries_the_next_way_each_time() -> None:
    room, machine = Room(), a_machine()
    assert room.boots(machine) is Way.CHAINLOAD
    assert room.boots(machine) is Way.BOOTNEXT
    assert room.agent_asks(machine)
    assert room.boots(machine) is Way.EXIT
    assert room.boots(machine) is None, "it waits a while"
    assert room.boots(machine, 100) is Way.CHAINLOAD, "and begins anew"
    room.passes(HOME_AFTER_S)
    assert room.tally(machine, Way.BOOTNEXT).failed == 0, "which of them failed the firmware and which the disk?"


def test_the_same_question_of_one_boot_has_the_same_answer() -> None:
    room, machine = Room(), a_machine()
    assert room.boots(machine) is Way.CHAINLOAD
    for _ in range(5):
        assert room.boots(machine, 5) is Way.CHAINLOAD


def test_what_grub_says_leads_nowhere_is_followed_in_the_same_boot() -> None:
    room, machine = Room(), a_machine(firmware=BIOS)
    assert room.boots(machine) is Way.CHAINLOAD
    assert room.says_it_failed(machine) is Way.EXIT
    assert room.says_it_failed(machine) is Way.EXIT, "a packet that came twice"
    assert room.boots(machine) is None


def test_a_word_about_a_way_that_was_not_told_changes_nothing() -> None:
    room, machine = Room(), a_machine()
    assert room.says_it_failed(machine, Way.EXIT) is Way.CHAINLOAD
    assert room.says_it_failed(machine, Way.BOOTNEXT) is Way.CHAINLOAD


def test_a_way_that_failed_twice_on_a_model_is_tried_last_by_all_of_it() -> None:
    room = Room()
    for number in (1, 2):
        machine = a_machine(number)
        assert room.boots(machine) is Way.CHAINLOAD
        assert room.boots(machine) is Way.BOOTNEXT
        assert room.agent_asks(machine)
        room.is_home(machine)
    assert room.tally(a_machine(), Way.CHAINLOAD) == Tally(failed=2, failed_in_a_row=2, last_s=WALL_S)
    assert room.tally(a_machine(), Way.BOOTNEXT) == Tally(worked=2, last_s=WALL_S)
    assert room.boots(a_machine(3)) is Way.BOOTNEXT
    assert room.boots(a_machine(4, product="Latitude")) is Way.CHAINLOAD
    assert room.boots(a_machine(5, firmware=BIOS)) is Way.CHAINLOAD


def test_a_way_that_works_again_is_forgiven() -> None:
    room = Room()
    room.ways = WaysHome({(Model.of(a_machine()), Way.CHAINLOAD): Tally(failed=2, failed_in_a_row=2)})
    machine = a_machine(way=Way.CHAINLOAD)
    assert room.boots(machine) is Way.CHAINLOAD, "an administrator said so"
    room.is_home(machine)
    assert room.boots(a_machine(2)) is Way.CHAINLOAD


def test_a_blank_disk_teaches_nothing() -> None:
    room, machine = Room(), a_machine()
    for _ in range(3):
        assert room.boots(machine) is Way.CHAINLOAD
        assert room.says_it_failed(machine) is Way.BOOTNEXT
        assert room.agent_asks(machine)
        assert not room.agent_asks(machine), "it asks again: it found nothing to start, and waits for a task"
        assert not room.agent_asks(machine)
    assert room.ways.take_changes() == {}


def test_an_agent_that_never_came_is_no_home() -> None:
    room, machine = Room(), a_machine()
    room.boots(machine)
    assert room.boots(machine) is Way.BOOTNEXT
    room.is_home(machine)
    room.passes(HOME_AFTER_S)
    assert room.ways.take_changes() == {}


def test_silence_is_home_but_for_a_firmware_that_was_left_to_itself() -> None:
    room, quiet, stuck = Room(), a_machine(1), a_machine(2, way=Way.EXIT)
    assert room.boots(quiet) is Way.CHAINLOAD
    assert room.boots(stuck) is Way.EXIT
    room.passes(HOME_AFTER_S - 60)
    assert room.ways.take_changes() == {}
    room.passes(HOME_AFTER_S)
    assert list(room.ways.take_changes().values()) == [Tally(silent=1, last_s=WALL_S)]
    assert room.tally(stuck, Way.EXIT) == Tally()


def test_a_machine_that_is_restarted_later_did_not_fail() -> None:
    room, machine = Room(), a_machine()
    room.boots(machine)
    assert room.boots(machine, FAILED_WITHIN_S) is Way.CHAINLOAD
    assert room.tally(machine, Way.CHAINLOAD).silent == 1


def test_without_an_agent_bootnext_is_left_out_and_has_not_failed() -> None:
    room, machine = Room(has_agent=False), a_machine()
    assert room.boots(machine) is Way.CHAINLOAD
    assert room.says_it_failed(machine) is Way.EXIT
    room.is_home(machine)
    assert room.tally(machine, Way.CHAINLOAD).failed == 1
    assert room.tally(machine, Way.BOOTNEXT) == Tally()


def test_an_agent_that_is_gone_while_a_machine_waits_for_it_fails_no_way() -> None:
    room, machine = Room(), a_machine()
    assert (room.boots(machine), room.boots(machine)) == (Way.CHAINLOAD, Way.BOOTNEXT)
    room.has_agent = False
    assert room.boots(machine, after_s=1) is Way.EXIT
    room.is_home(machine)
    assert room.tally(machine, Way.BOOTNEXT) == Tally()


def test_a_task_ends_what_was_known_of_the_disk() -> None:
    room, machine = Room(), a_machine()
    room.boots(machine)
    assert room.boots(machine) is Way.BOOTNEXT
    room.ways.forget(machine.id)
    assert not room.agent_asks(machine)
    assert room.boots(machine) is Way.CHAINLOAD


def test_changes_are_given_once_and_models_are_bounded() -> None:
    room = Room()
    for number in range(MOST_MODELS + 5):
        machine = a_machine(1, product=f"made-up-{number}")
        room.boots(machine)
        room.is_home(machine)
    assert len(room.ways.take_changes()) == MOST_MODELS
    assert room.ways.take_changes() == {}
