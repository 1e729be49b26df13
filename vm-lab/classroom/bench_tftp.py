"""The TFTP lines of `vm-lab/bench boot`: ours and the peers' turn by turn."""

from collections.abc import Iterator
from statistics import median

from classroom.errors import LabError
from classroom.figures import Figure
from classroom.run import Run
from classroom.tftp_peers import LARGE, SMALL, TftpServed, tftp_serving

TURNS = 5
"""Fetches of each side, turn by turn: one of a tenth of a second says more of what else the machine did."""

ROOM, CROWD = 30, 100
"""Clients at once."""
LEAST_OF_DNSMASQ = 0.9
LEAST_OF_ATFTPD = {4: 1.0, 16: 1.5}
"""By window."""
MOST_UNFAIR = 2.0
MOST_RSS_MB = 150.0
BAD_WINDOWS = (1, 4, 16)
BAD_WITHIN_S = 15.0
"""A server that needs longer over the bad line is not waited for."""
BAD_SEED = 1350
BAD_TRIES = 5
"""atftp 0.8 gives up when its answer to the options is lost."""


def bench_tftp(lab: Run) -> Iterator[Figure]:
    """Clean lines."""
    with tftp_serving(lab, "roomcast") as ours:
        with tftp_serving(lab, "dnsmasq") as peer:
            yield _faster("1 client", "dnsmasq", LEAST_OF_DNSMASQ, ours, peer, LARGE)
        with tftp_serving(lab, "atftpd") as peer:
            for window, least in LEAST_OF_ATFTPD.items():
                yield _faster(f"window {window}", "atftpd", least, ours, peer, LARGE, window=window)
        with tftp_serving(lab, "tftpd-hpa") as peer:
            yield _faster(f"{ROOM} clients", "tftpd-hpa", 1.0, ours, peer, SMALL, clients=ROOM)
        fetched = ours.fetch(SMALL, clients=ROOM)
        if fetched.whole < ROOM:
            raise LabError(f"only {fetched.whole} of {ROOM} clients got their file from us: there is no slowest")
        unfairness = fetched.unfairness
        yield Figure(
            f"tftp {ROOM} clients, slowest to fastest", unfairness, " x", MOST_UNFAIR, is_least=False, digits=2
        )
        crowd = ours.fetch(SMALL, clients=CROWD)
        yield Figure(f"tftp {CROWD} clients, whole files", crowd.whole, "", CROWD, is_least=True, each_run=True)
        memory_mb = ours.rss_bytes / 1e6
        yield Figure("tftp memory (RSS, whole appliance)", memory_mb, " MB", MOST_RSS_MB, is_least=False, each_run=True)


def bench_bad_line(lab: Run) -> Iterator[Figure]:
    """0.5 % lost, 2 % doubled, 2 % overtaken, by seed."""
    for window in BAD_WINDOWS:
        seconds = {}
        for name in ("roomcast", "atftpd"):
            with tftp_serving(lab, name, bad_line_seed=BAD_SEED) as served:
                seconds[name] = _seconds_over_bad_line(served, window)
        theirs = min(seconds["atftpd"], BAD_WITHIN_S)
        told = f"atftpd {theirs:.2f} s" if theirs < BAD_WITHIN_S else f"atftpd more than {BAD_WITHIN_S:.0f} s"
        name = f"tftp bad line, 4 MB, window {window}"
        yield Figure(name, seconds["roomcast"], " s", theirs, is_least=False, peer=told, digits=2)


def _faster(
    what: str,
    peer: str,
    least: float,
    ours: TftpServed,
    theirs: TftpServed,
    file: str,
    *,
    window: int = 0,
    clients: int = 1,
) -> Figure:
    rates: dict[str, list[float]] = {peer: [], "us": []}
    for _ in range(TURNS):
        for name, served in ((peer, theirs), ("us", ours)):
            fetched = served.fetch(file, window=window, clients=clients)
            if fetched.whole < clients:
                raise LabError(f"only {fetched.whole} of {clients} clients got their file from {name}: tftp {what}")
            rates[name].append(fetched.mb_per_s)
    other = median(rates[peer])
    told = f"{least:g} x {peer}'s {other:.0f}"
    return Figure(f"tftp {what}", median(rates["us"]), " MB/s", least * other, is_least=True, peer=told)


def _seconds_over_bad_line(served: TftpServed, window: int) -> float:
    """Of the small file, whole; without end when it takes longer than BAD_WITHIN_S."""
    for _ in range(BAD_TRIES):
        fetched = served.fetch(SMALL, window=window, within_s=BAD_WITHIN_S)
        if fetched.wrong:
            raise LabError(f"a file came over the bad line that is not what was asked for, window {window}")
        if fetched.whole:
            return fetched.seconds
        if fetched.seconds >= BAD_WITHIN_S:
            return float("inf")
    raise LabError(f"no file came over the bad line in {BAD_TRIES} tries, window {window}")
