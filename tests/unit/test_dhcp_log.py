"""What the log says of addresses: news, and no more lines than a person reads."""

import pytest
from dhcp_builders import NETWORK, a_discover, a_renewal, a_request, a_server, an_arrival, reply_to
from structlog.testing import capture_logs

from netboot.services.dhcp_log import LINES_BURST, TELL_EVERY_S, LeaseLog


@pytest.fixture
def lines():
    with capture_logs() as captured:
        yield captured


def told_of(lines, what):
    return [line for line in lines if line["event"] == what and line["log_level"] == "info"]


def test_a_machine_that_keeps_its_address_is_no_news(lines) -> None:
    server, log = a_server(), LeaseLog("e0")
    offer = reply_to(server, a_discover()).packet
    request = a_request(offer)
    log.answered(request, reply_to(server, request), 1000.0)
    for now in (1100.0, 1200.0):
        renewal = a_renewal(offer.yiaddr)
        log.answered(renewal, reply_to(server, renewal, an_arrival(now)), now)
    log.tell_rest(2000.0)
    (given,) = told_of(lines, "dhcp lease")
    assert given["address"] == str(offer.yiaddr)
    assert len([line for line in lines if line["log_level"] == "info"]) == 1


def test_lease_that_begins_anew_is_news_again(lines) -> None:
    server, log = a_server(), LeaseLog("e0")
    for now in (1000.0, 90_000.0):
        request = a_request(reply_to(server, a_discover(), an_arrival(now)).packet)
        log.answered(request, reply_to(server, request, an_arrival(now)), now)
    assert len(told_of(lines, "dhcp lease")) == 2


def test_what_has_no_line_of_its_own_is_told_as_a_number(lines) -> None:
    server, log = a_server(), LeaseLog("e0")
    refused = a_renewal(NETWORK[250])
    reply = reply_to(server, refused)
    many = int(LINES_BURST) + 500
    for number in range(many):
        log.answered(refused, reply, 1000.0 + number / 1000)
        log.tell_rest(1000.0 + number / 1000)
    listed = len(told_of(lines, "dhcp refused"))
    assert LINES_BURST <= listed < LINES_BURST + 10
    assert told_of(lines, "dhcp leases without a line each") == []
    log.tell_rest(1002.0 + TELL_EVERY_S)
    log.tell_rest(1003.0 + TELL_EVERY_S)
    (rest,) = told_of(lines, "dhcp leases without a line each")
    assert rest["refused"] == many - listed and rest["given"] == 0
