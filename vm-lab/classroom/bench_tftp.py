"""The TFTP lines of `vm-lab/bench boot`: ours and the peers' turn by turn."""

from collections.abc import Iterator, Mapping
from statistics import median

from classroom.errors import LabError
from classroom.figures import Figure
from classroom.run import Run
from classroom.tftp_peers import LARGE, SMALL, Client, TftpServed, tftp_serving

TURNS = 5
"""Fetches of each side, turn by turn: one of a tenth of a second says more of what else the machine did."""

ROOM, CROWD = 30, 100
"""Clients at once."""
LEAST_OF_DNSMASQ = 0.9
LEAST_OF_ATFTPD = 1.0
LEAST_OF_ATFTPD_BY_16 = 1.5
"""With windows of 16, of the best that atftpd does with either client."""
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
            yield _faster("1 client", "dnsmasq", LEAST_OF_DNSMASQ, ours, peer, LARGE, Client.CURL)
        with tftp_serving(lab, "atftpd") as peer:
            yield _faster("window 4", "atftpd", LEAST_OF_ATFTPD, ours, peer, LARGE, Client.ATFTP, window=4)
            yield from _windows_of_16(ours, peer)
        with tftp_serving(lab, "tftpd-hpa") as peer:
            yield _faster(f"{ROOM} clients", "tftpd-hpa", 1.0, ours, peer, SMALL, Client.CURL, clients=ROOM)
        fetched = ours.fetch(SMALL, Client.CURL, clients=ROOM)
        if fetched.whole < ROOM:
            raise LabError(f"only {fetched.whole} of {ROOM} clients got their file from us: there is no slowest")
        unfairness = fetched.unfairness
        yield Figure(
            f"tftp {ROOM} clients, slowest to fastest", unfairness, " x", MOST_UNFAIR, is_least=False, digits=2
        )
        crowd = ours.fetch(SMALL, Client.CURL, clients=CROWD)
        yield Figure(f"tftp {CROWD} clients, whole files", crowd.whole, "", CROWD, is_least=True, each_run=True)
        memory_mb = ours.most_rss_bytes / 1e6
        yield Figure("tftp memory (RSS, whole appliance)", memory_mb, " MB", MOST_RSS_MB, is_least=False, each_run=True)


def bench_bad_line(lab: Run) -> Iterator[Figure]:
    """0.5 % lost, 2 % doubled, 2 % overtaken, by seed. What we fail at costs us its time; the peer's is not counted."""
    for window in BAD_WINDOWS:
        with tftp_serving(lab, "roomcast", bad_line_seed=BAD_SEED) as served:
            ours = sum(_seconds_over_bad_line(served, window))
        with tftp_serving(lab, "atftpd", bad_line_seed=BAD_SEED) as served:
            theirs = min(_seconds_over_bad_line(served, window)[-1], BAD_WITHIN_S)
        told = f"atftpd {theirs:.2f} s" if theirs < BAD_WITHIN_S else f"atftpd more than {BAD_WITHIN_S:.0f} s"
        yield Figure(f"tftp bad line, 4 MB, window {window}", ours, " s", theirs, is_least=False, peer=told, digits=2)


def _windows_of_16(ours: TftpServed, atftpd: TftpServed) -> Iterator[Figure]:
    """By a client that is faster than either server, and by one that people have."""
    rates = {
        client: _turn_by_turn("window 16", {"atftpd": atftpd, "us": ours}, LARGE, client, window=16)
        for client in (Client.OURS, Client.ATFTP)
    }
    best = max(rates, key=lambda client: rates[client]["atftpd"])
    other, least = rates[best]["atftpd"], LEAST_OF_ATFTPD_BY_16
    told = f"{least:g} x atftpd's {other:.0f}, client {best.value}"
    yield Figure("tftp window 16", rates[Client.OURS]["us"], " MB/s", least * other, is_least=True, peer=told)
    yield _beside("window 16, client atftp", "atftpd", LEAST_OF_ATFTPD, rates[Client.ATFTP])


def _faster(
    what: str,
    peer: str,
    least: float,
    ours: TftpServed,
    theirs: TftpServed,
    file: str,
    client: Client,
    *,
    window: int = 1,
    clients: int = 1,
) -> Figure:
    servers = {peer: theirs, "us": ours}
    return _beside(what, peer, least, _turn_by_turn(what, servers, file, client, window=window, clients=clients))


def _beside(what: str, peer: str, least: float, rates: Mapping[str, float]) -> Figure:
    other = rates[peer]
    told = f"{least:g} x {peer}'s {other:.0f}"
    return Figure(f"tftp {what}", rates["us"], " MB/s", least * other, is_least=True, peer=told)


def _turn_by_turn(
    what: str,
    servers: Mapping[str, TftpServed],
    file: str,
    client: Client,
    *,
    window: int = 1,
    clients: int = 1,
) -> dict[str, float]:
    """The median MB/s of each server."""
    rates: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(TURNS):
        for name, served in servers.items():
            fetched = served.fetch(file, client, window=window, clients=clients)
            if fetched.whole < clients:
                told = f"only {fetched.whole} of {clients} clients got their file from {name}: tftp {what}"
                raise LabError(f"{told}: {fetched.complaint}")
            rates[name].append(fetched.own_mb_per_s if client is Client.OURS else fetched.mb_per_s)
    return {name: median(each) for name, each in rates.items()}


def _seconds_over_bad_line(served: TftpServed, window: int) -> list[float]:
    """Of each try, the last of which got the small file whole; without end when none does, or takes too long."""
    tries: list[float] = []
    for _ in range(BAD_TRIES):
        fetched = served.fetch(SMALL, Client.ATFTP, window=window, within_s=BAD_WITHIN_S)
        if fetched.wrong:
            raise LabError(f"a file came over the bad line that is not what was asked for, window {window}")
        tries.append(fetched.seconds)
        if fetched.whole:
            return tries
        if fetched.seconds >= BAD_WITHIN_S:
            break
    return [*tries, float("inf")]
