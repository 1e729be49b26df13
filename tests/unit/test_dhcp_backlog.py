"""Who is answered when more is asked than can be answered."""

from netboot.dhcp.backlog import LATE_S, MOST, NEWCOMER_EVERY, Backlog
from netboot.wire.dhcp_options import MessageType

DISCOVER, REQUEST = MessageType.DISCOVER, MessageType.REQUEST


def a_backlog(*items: tuple[MessageType | None, str], now: float = 10.0) -> Backlog[str]:
    backlog: Backlog[str] = Backlog()
    for kind, name in items:
        assert backlog.put(kind, name, now) == []
    return backlog


def everything(backlog: Backlog[str]) -> list[str]:
    return [item for _ in range(len(backlog)) if (item := backlog.take()) is not None]


def test_whoever_has_an_offer_goes_before_newcomers_and_the_newest_newcomer_before_older_ones() -> None:
    backlog = a_backlog((DISCOVER, "old"), (DISCOVER, "new"), (REQUEST, "first"), (MessageType.RELEASE, "second"))
    assert everything(backlog) == ["first", "second", "new", "old"]
    assert backlog.take() is None


def test_a_flood_of_requests_leaves_newcomers_their_share() -> None:
    backlog = a_backlog(*[(REQUEST, "request")] * 100, (DISCOVER, "a"), (DISCOVER, "b"))
    taken = [backlog.take() for _ in range(2 * NEWCOMER_EVERY)]
    assert taken.count("a") == taken.count("b") == 1


def test_what_waited_too_long_is_not_answered_any_more() -> None:
    backlog = a_backlog((DISCOVER, "late"), (REQUEST, "late too"), now=10.0)
    backlog.put(DISCOVER, "in time", 10.5)
    assert backlog.take_late(10.0 + LATE_S) == []
    assert backlog.take_late(10.25 + LATE_S) == ["late", "late too"]
    assert everything(backlog) == ["in time"]


def test_a_backlog_holds_so_many_and_the_oldest_give_way() -> None:
    backlog: Backlog[int] = Backlog()
    gave_way = [backlog.put(kind, number, 1.0) for kind in (DISCOVER, None) for number in range(MOST + 2)]
    assert [item for items in gave_way for item in items] == [0, 1, 0, 1]
    assert len(backlog) == 2 * MOST
