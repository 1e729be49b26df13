"""Whole casts over a modelled network: identical bytes or a stated failure, at an end, with bounded sending.

The simulator compares the bytes of every chunk that it is handed. A run that fails is run again by its seed, which
pytest shows in the test's name.
"""

import pytest

from imager.multicast.erasure import TableCode
from imager.multicast.layout import CastLayout
from imager.multicast.network import Narrow
from imager.multicast.scenarios import BLOCK, busy_machines, random_scenario
from imager.multicast.simulation import Outcome, Scenario, broken_promises, simulate


def sent_packets(outcome: Outcome) -> int:
    statistics = outcome.statistics
    return statistics.source_packets + statistics.resent_packets + statistics.repair_packets


def overhead(scenario: Scenario, outcome: Outcome) -> float:
    return sent_packets(outcome) / CastLayout(scenario.stored_lengths).symbol_count


def all_hold_all(scenario: Scenario, outcome: Outcome) -> bool:
    return outcome.held == {
        number: set(scenario.wanted.get(number, range(len(scenario.stored_lengths))))
        for number in range(scenario.receivers)
    }


@pytest.mark.parametrize("seed", range(120))
def test_every_receiver_gets_all_it_wants_or_a_stated_failure(seed: int) -> None:
    scenario = random_scenario(seed)
    assert broken_promises(scenario, simulate(scenario)) == []


def test_the_same_seed_runs_the_same_cast() -> None:
    assert simulate(random_scenario(11)) == simulate(random_scenario(11))


def test_without_loss_nothing_is_sent_twice_and_nothing_is_asked_for() -> None:
    scenario = Scenario(seed=1, receivers=8)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) == 1
    assert outcome.statistics.nacks == 0


@pytest.mark.parametrize("code", [None, TableCode()], ids=["isa-l", "numpy"])
def test_repair_is_for_all_receivers_at_once(code: TableCode | None) -> None:
    """1 % loss at each of 8: their losses together are 8 %, the most of any one in a block about 3 %."""
    scenario = Scenario(seed=2, receivers=8, loss=0.01, stored_lengths=(576_000,) * 20)
    outcome = simulate(scenario, code)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) < 1.035


def test_more_receivers_cost_hardly_more() -> None:
    scenario = Scenario(seed=3, receivers=60, loss=0.01, stored_lengths=(576_000,) * 10)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) < 1.05


def test_repair_goes_beside_new_data_and_never_instead_of_it() -> None:
    clean = simulate(Scenario(seed=4, receivers=2, stored_lengths=(576_000,) * 60))
    lossy = simulate(Scenario(seed=4, receivers=2, loss=0.05, stored_lengths=(576_000,) * 60))
    assert lossy.statistics.first_pass_s < clean.statistics.first_pass_s * 1.3  # repair 7 %, and a trial of the rate


@pytest.mark.parametrize("kibibytes", [16, 64, 128])
def test_a_port_slower_than_the_sender_loses_hardly_anything_once_it_is_known(kibibytes: int) -> None:
    port = Narrow(2e8, kibibytes << 10)
    scenario = Scenario(seed=13, receivers=2, stored_lengths=(576_000,) * 150, ports={0: port})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    (_, _, sent, lost), *_, (_, _, all_sent, all_lost) = (sample for sample in outcome.rates if sample[0] >= 2)
    assert (all_lost - lost) / (all_sent - sent) < 0.01
    assert outcome.ended_at < 150 * 576_000 * 8 * 1.04 / port.bps * 1.4


def test_a_receiver_whose_processor_is_slow_is_followed() -> None:
    scenario = Scenario(seed=14, receivers=2, stored_lengths=(576_000,) * 100, processors={1: Narrow(3e8, 4 << 20)})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert outcome.ended_at < 100 * 576_000 * 8 * 1.04 / 3e8 * 1.5


def test_bursts_that_find_no_room_become_shorter_and_the_rate_does_not_pay_for_them() -> None:
    """Seen: eleven packets of room, bursts of twelve; the rate stayed at that of half the port."""
    port = Narrow(5e8, 16 << 10)
    outcome = simulate(Scenario(seed=1, receivers=1, stored_lengths=(BLOCK,) * 800, ports={0: port}, line_bps=4e9))
    end = outcome.finished_at[0]
    (since, _, sent, _), *_, (until, _, all_sent, _) = (sample for sample in outcome.rates if sample[0] >= 0.7 * end)
    assert (all_sent - sent) * 1498 * 8 / (until - since) > 0.9 * port.bps


@pytest.mark.parametrize("machines", [2, 4, pytest.param(8, marks=pytest.mark.long)])
def test_equal_machines_without_a_turn_now_and_then_slow_the_rate_and_none_is_demoted(machines: int) -> None:
    """Seen in a classroom of emulated machines: each was called slow in turn, so none of them slowed the rate."""
    scenario = busy_machines(1, machines)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) < 1.15
    assert outcome.demoted == []


def test_a_block_that_is_sent_again_to_a_full_buffer_gets_through_at_last() -> None:
    """Seen: the same first packets of the block found room each time, and the others never did."""
    scenario = Scenario(seed=15, receivers=1, stored_lengths=(BLOCK,), ports={0: Narrow(4e7, 16 << 10)})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) < 8


def test_a_late_joiner_gets_what_it_lacks_and_costs_no_more() -> None:
    scenario = Scenario(seed=5, receivers=3, stored_lengths=(576_000,) * 20, joins_at={2: 0.06})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    missed = (0.06 - scenario.begins_at) / outcome.statistics.first_pass_s
    assert overhead(scenario, outcome) < 1 + missed * 1.1


def test_a_joiner_after_the_first_pass_gets_all_of_it() -> None:
    scenario = Scenario(
        seed=6, receivers=2, stored_lengths=(576_000,) * 6, joins_at={1: 0.2}, away={0: (0.03, 0.4)}, loss=0.01
    )
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)


def test_a_vanished_receiver_is_failed_after_the_stated_time_and_holds_nobody_up() -> None:
    scenario = Scenario(seed=7, receivers=4, loss=0.01, vanishes_at={2: 0.03}, silence_timeout_s=3)
    outcome = simulate(scenario)
    assert outcome.failed == {2: "silent for 3 s"}
    others = [at for number, at in outcome.finished_at.items() if number != 2]
    assert len(others) == 3
    assert max(others) < 0.3
    assert 3 <= outcome.statistics.elapsed_s < 3.2


def test_a_receiver_that_was_away_comes_back_to_the_same_session() -> None:
    scenario = Scenario(seed=8, receivers=3, stored_lengths=(576_000,) * 10, away={1: (0.03, 1.5)})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert max(outcome.finished_at[0], outcome.finished_at[2]) < 0.2


def test_a_receiver_without_free_memory_gets_the_dropped_symbols_later() -> None:
    scenario = Scenario(seed=9, receivers=2, stored_lengths=(300_000,) * 30, slots=4, disk_s=0.02)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert outcome.statistics.elapsed_s < 30 * 0.02 / 4 * 10


def test_a_chunk_with_a_wrong_hash_is_asked_for_again() -> None:
    scenario = Scenario(seed=10, receivers=1, wrong_chunks=0.5)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert outcome.statistics.resent_packets > 0


def test_what_nobody_lacks_is_not_sent() -> None:
    scenario = Scenario(seed=11, receivers=3, wanted={0: (0,), 1: (3, 4), 2: (4,)})
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    assert overhead(scenario, outcome) == pytest.approx(3 / 8)


def test_the_operators_limit_holds() -> None:
    scenario = Scenario(seed=12, receivers=2, loss=0.02, max_bitrate_bps=5e7, stored_lengths=(300_000,) * 8)
    outcome = simulate(scenario)
    assert all_hold_all(scenario, outcome)
    sent_bits = sent_packets(outcome) * 1498 * 8
    assert sent_bits / outcome.statistics.elapsed_s < 5e7 * 1.02
    assert sent_bits / outcome.statistics.elapsed_s > 5e7 * 0.7
