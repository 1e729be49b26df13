"""The addresses of one subnet that are to be had, in the order in which they are given away. Pure.

No step looks at more addresses than it moves, however large the pools are. Every address of the pools is in one place:
not looked at yet, blank (nobody's), expired (its last holder may come back), lent (offered), or leased or put away
until some time.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from heapq import heapify, heappop, heappush
from ipaddress import IPv4Address
from itertools import chain, islice

from netboot.dhcp.leases import LeaseRepository, LeaseState
from netboot.dhcp.subnets import Subnet

KEPT_SHARE = 4
"""A pool's part (1/4) that is kept for machines that had an address before."""
SCARCE_SHARE = 2
"""Less than this part (1/2) free: first leases are short, and no switch port takes more than its share."""
AHEAD_LOCAL = 512
AHEAD_RELAYED = 32
"""Addresses that are probed before anybody asks for one."""
_TRIED_AHEAD = 8
_TRIED_LENT = 64
_MOST_MOVED = 2000
"""Addresses whose lease ended that are looked at in one step."""


class FreeAddresses:
    """Which address of a subnet's pools comes next. Told of every change by the server; asks the leases itself."""

    def __init__(self, subnet: Subnet, excluded: Collection[IPv4Address], leases: LeaseRepository) -> None:
        self._leases = leases
        self._pools = [(int(pool.first), int(pool.last)) for pool in subnet.pools]
        self._excluded = {int(address) for address in excluded if subnet.in_pools(address)}
        self.size = sum(last - first + 1 for first, last in self._pools) - len(self._excluded)
        self._unvisited = chain.from_iterable(range(first, last + 1) for first, last in self._pools)
        self._blank: dict[int, None] = {}
        self._expired: dict[int, None] = {}
        self._lent: dict[int, bool] = {}
        """Offered, the oldest offer first; whether it was an expired one."""
        self._leased: dict[int, float] = {}
        """And when to look at each again."""
        self._due: list[tuple[float, int]] = []
        self._on_trial: dict[int, tuple[str, bool]] = {}
        """Whose first lease it is, and whether a short one."""
        self._circuit_of: dict[int, bytes] = {}
        self._per_circuit: Counter[bytes] = Counter()
        self._ahead: deque[int] = deque()
        for lease in leases.all():
            if self._is_ours(number := int(lease.address)):
                self._leased[number] = lease.expires_s
        self._due = [(until_s, number) for number, until_s in self._leased.items()]
        heapify(self._due)

    # What happened

    def taken(
        self, address: IPv4Address, until_s: float, *, trial_of: str = "", is_short: bool = False, circuit: bytes = b""
    ) -> None:
        """Leased or put away. On trial: a first lease that is never renewed keeps no address for its machine."""
        if not self._is_ours(number := int(address)):
            return
        self._blank.pop(number, None)
        self._expired.pop(number, None)
        self._lent.pop(number, None)
        self._on_trial.pop(number, None)
        if trial_of:
            self._on_trial[number] = (trial_of, is_short)
        if circuit and number not in self._circuit_of:
            self._circuit_of[number] = circuit
            self._per_circuit[circuit] += 1
        self._leased[number] = until_s
        heappush(self._due, (until_s, number))
        if len(self._due) > 2 * len(self._leased) + 64:
            self._due = [(until_s, number) for number, until_s in self._leased.items()]
            heapify(self._due)

    def freed(self, address: IPv4Address) -> None:
        """Nobody has it any more, and its record is gone."""
        number = int(address)
        if self._leased.pop(number, None) is not None:
            self._drop_circuit(number)
            self._on_trial.pop(number, None)
            self._blank[number] = None
        elif number in self._expired:
            del self._expired[number]
            self._blank[number] = None
        elif number in self._lent:
            self._lent[number] = False

    def ended(self, address: IPv4Address, now: float) -> None:
        """Its holder gave it back, and its record says so: as if its time were over."""
        number = int(address)
        if number in self._leased:
            self._leased[number] = now
            heappush(self._due, (now, number))

    def offered(self, address: IPv4Address) -> None:
        """Others come first from now on."""
        number = int(address)
        if number not in self._leased and self._is_ours(number):
            was_expired = number in self._expired or self._lent.get(number, False)
            self._blank.pop(number, None)
            self._expired.pop(number, None)
            self._lent.pop(number, None)
            self._lent[number] = was_expired

    def is_on_trial(self, address: IPv4Address, mac: str) -> bool:
        return self._on_trial.get(int(address), ("", False))[0] == mac

    # What there is

    def count(self, now: float) -> int:
        """How many addresses nobody holds, offered ones included."""
        self._advance(now)
        return self.size - len(self._leased)

    def is_scarce(self, now: float) -> bool:
        return self.count(now) * SCARCE_SHARE < self.size

    def has_had_its_share(self, circuit: bytes, now: float) -> bool:
        """Whether machines behind this switch port or relay hold so much that others come first."""
        if not circuit or len(self._per_circuit) < 2 or not self.is_scarce(now):
            return False
        return self._per_circuit[circuit] * KEPT_SHARE >= self.size

    def is_kept(self, address: IPv4Address) -> bool:
        """Whether no stranger gets this address, though it is free."""
        number = int(address)
        is_expired = number in self._expired or self._lent.get(number, False)
        return is_expired and not self._may_strangers_take_expired()

    def _may_strangers_take_expired(self) -> bool:
        return len(self._expired) * KEPT_SHARE > self.size

    def choose(
        self,
        now: float,
        *,
        is_stranger: bool,
        is_probed: Callable[[IPv4Address], bool],
        is_offered: Callable[[IPv4Address], bool],
    ) -> Iterator[IPv4Address]:
        """Probed ahead, never used, longest expired, longest offered: at most a handful; the caller takes one.

        A stranger gets none of the last quarter: these are kept for the machines that had them.
        """
        self._advance(now)
        self._reclaim(is_offered)
        may_take_expired = not is_stranger or self._may_strangers_take_expired()
        self._skip_given(now, is_offered)
        for _ in range(min(_TRIED_AHEAD, len(self._ahead))):
            number = self._ahead.popleft()
            if self._was_given(number, now, is_offered):
                continue
            if number in self._blank or (may_take_expired and number in self._expired):
                if is_probed(address := IPv4Address(number)):
                    yield address
                else:
                    self._ahead.append(number)
        for _ in range(_MOST_MOVED):
            if (never := self._next_unvisited()) is None:
                break
            if not self._was_given(never, now, is_offered):
                self._blank[never] = None
                yield IPv4Address(never)
                break
        if self._blank:
            yield IPv4Address(next(iter(self._blank)))
        if self._expired and may_take_expired:
            yield IPv4Address(next(iter(self._expired)))
        for number, was_expired in islice(self._lent.items(), _TRIED_LENT):
            if may_take_expired or not was_expired:
                yield IPv4Address(number)
                return

    def ahead(
        self,
        now: float,
        count: int,
        most: int,
        is_probed: Callable[[IPv4Address], bool],
        is_offered: Callable[[IPv4Address], bool],
    ) -> list[IPv4Address]:
        """Addresses that are likely to be given next and were not probed lately; at most `count`."""
        self._advance(now)
        self._reclaim(is_offered)
        kept = [number for number in self._ahead if number in self._blank or number in self._expired]
        known = set(kept)
        for number in islice(chain(self._blank, self._expired), most):
            if len(kept) >= most:
                break
            if number not in known:
                known.add(number)
                kept.append(number)
        for _ in range(min(count, most - len(kept))):
            if (never := self._next_unvisited()) is None:
                break
            self._blank[never] = None
            kept.append(never)
        self._ahead = deque(kept)
        wanted = (address for number in kept if not is_probed(address := IPv4Address(number)))
        return list(islice(wanted, count))

    def _reclaim(self, is_offered: Callable[[IPv4Address], bool]) -> None:
        while self._lent:
            address = IPv4Address(number := next(iter(self._lent)))
            if is_offered(address):
                return
            (self._expired if self._lent.pop(number) else self._blank)[number] = None

    def _skip_given(self, now: float, is_offered: Callable[[IPv4Address], bool]) -> None:
        """So that what comes next is to be had."""
        for place in (self._blank, self._expired):
            for _ in range(_MOST_MOVED):
                if not place or not self._was_given(next(iter(place)), now, is_offered):
                    break

    def _was_given(self, number: int, now: float, is_offered: Callable[[IPv4Address], bool]) -> bool:
        """Whether a server of another interface, or of earlier settings, gave or offered it; then it has its place."""
        address = IPv4Address(number)
        lease = self._leases.get_by_address(address)
        if lease is not None and lease.is_active(now):
            self.taken(address, lease.expires_s)
            return True
        if number not in self._lent and is_offered(address):
            self.offered(address)
            return True
        return False

    def _next_unvisited(self) -> int | None:
        for number in self._unvisited:
            if not any(
                number in place for place in (self._excluded, self._leased, self._blank, self._lent, self._expired)
            ):
                return number
        return None

    def _advance(self, now: float) -> None:
        """Look again at what is due."""
        for _ in range(_MOST_MOVED):
            if not self._due or self._due[0][0] > now:
                return
            until_s, number = heappop(self._due)
            if self._leased.get(number) != until_s:
                continue  # changed since
            address = IPv4Address(number)
            lease = self._leases.get_by_address(address)
            if lease is not None and lease.is_active(now):
                self._leased[number] = lease.expires_s
                heappush(self._due, (lease.expires_s, number))
                continue
            del self._leased[number]
            self._drop_circuit(number)
            tried, is_short = self._on_trial.pop(number, ("", False))
            if lease is not None and lease.state is LeaseState.BOUND and lease.mac != tried:
                self._expired[number] = None
                continue
            self._blank[number] = None
            if lease is not None and is_short:
                self._leases.release(address)

    def _drop_circuit(self, number: int) -> None:
        circuit = self._circuit_of.pop(number, None)
        if circuit is not None:
            self._per_circuit[circuit] -= 1
            if not self._per_circuit[circuit]:
                del self._per_circuit[circuit]

    def _is_ours(self, number: int) -> bool:
        return number not in self._excluded and any(first <= number <= last for first, last in self._pools)
