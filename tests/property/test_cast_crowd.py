"""Casts to many receivers, modelled as arrays: what goes over the wire hardly grows with them, nor does the time."""

import pytest

from imager.multicast.crowd import Crowd, CrowdOutcome
from imager.multicast.layout import CastLayout
from imager.multicast.simulation import Scenario, broken_promises, simulate
from imager.wire.session import SYMBOL_BYTES

BLOCK = 200 * SYMBOL_BYTES


def a_cast(receivers: int, loss: float = 0.01, blocks: int = 400, seed: int = 1) -> tuple[float, CrowdOutcome]:
    """What was sent, as a multiple of the payload."""
    layout = CastLayout((BLOCK,) * blocks)
    outcome = Crowd(seed, receivers, layout, loss).run()
    return outcome.sent_packets / layout.symbol_count, outcome


@pytest.mark.parametrize(("receivers", "loss", "most"), [(8, 0.01, 1.03), (8, 0.05, 1.10), (300, 0.01, 1.06)])
def test_repair_is_for_all_at_once(receivers: int, loss: float, most: float) -> None:
    wire, outcome = a_cast(receivers, loss)
    assert wire < most
    assert outcome.control_bytes < 0.01 * outcome.sent_bytes


def test_two_thousand_receivers_cost_four_percent() -> None:
    wire, outcome = a_cast(2000, blocks=200)
    assert wire < 1.08
    assert outcome.control_bytes < 0.01 * outcome.sent_bytes


def test_what_a_thousand_receivers_say_stays_under_a_hundredth_of_what_is_sent() -> None:
    _, outcome = a_cast(1000)
    assert outcome.control_bytes < 0.01 * outcome.sent_bytes


def test_the_time_hardly_grows_with_the_receivers() -> None:
    alone, room, hall = (a_cast(receivers, blocks=1500)[1].finished_s for receivers in (1, 8, 300))
    assert room < alone * 1.03
    assert hall < alone * 1.08


def test_the_crowd_behaves_as_the_real_sessions_do() -> None:
    modelled, crowd = a_cast(20, 0.02, blocks=60)
    scenario = Scenario(seed=1, receivers=20, stored_lengths=(BLOCK,) * 60, loss=0.02)
    real = simulate(scenario)
    assert broken_promises(scenario, real) == []
    assert real.sent_packets / 12000 == pytest.approx(modelled, abs=0.004)
    assert real.statistics.elapsed_s == pytest.approx(crowd.finished_s, rel=0.3)


@pytest.mark.long
def test_two_thousand_real_sessions_at_once() -> None:
    scenario = Scenario(seed=2, receivers=2000, stored_lengths=(BLOCK,) * 2, loss=0.01, slots=2)
    outcome = simulate(scenario)
    assert broken_promises(scenario, outcome) == []
    assert outcome.held == {number: {0, 1} for number in range(2000)}
    assert outcome.sent_packets < 400 * 1.12  # two blocks: the unluckiest of 4,000 lacks eight or nine of 200
