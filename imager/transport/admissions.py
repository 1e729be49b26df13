"""Who may have the catalogue of a file cast: bounds those who take it and never join. Pure: no I/O.

A number that was given is never given again, so whoever asks without end would use up all of them; and each that does
not join is waited for. Who is refused may ask again: a place is free again when its receiver joins, or in time.
"""

from collections import Counter

UNJOINED_S = 30.0
"""A receiver that was given the catalogue and has not joined has its place so long."""
MOST_UNJOINED_OF_ONE = 32
"""Of one address."""
MOST_UNJOINED = 1024
MOST_IN_VAIN_OF_ONE = 64
"""Receivers of one address that were waited for and never joined: else it could keep a sending from its end."""
MOST_OF_ONE = 4096
"""Admissions of one address in one sending: many receivers on a machine, and each some times anew."""


class Admissions:
    """Of one sending. Not for several threads."""

    def __init__(self) -> None:
        self._unjoined: dict[int, tuple[str, float]] = {}  # address and when, in the order of time
        self._unjoined_of: Counter[str] = Counter()
        self._in_vain_of: Counter[str] = Counter()
        self._all_of: Counter[str] = Counter()

    def refusal(self, address: str, now: float) -> str:
        """Why nobody of this address is admitted now, for a person; empty when one may be."""
        self._expire(now)
        if self._all_of[address] >= MOST_OF_ONE:
            return (
                f"{address} was given the catalogue {MOST_OF_ONE} times, which is all that one address gets in one "
                "sending: start the sending again for who lacks the file"
            )
        if self._in_vain_of[address] >= MOST_IN_VAIN_OF_ONE:
            return (
                f"{address} was waited for {MOST_IN_VAIN_OF_ONE} times and did not join: it is not admitted again in "
                "this sending"
            )
        if self._unjoined_of[address] >= MOST_UNJOINED_OF_ONE:
            return (
                f"{address} was given the catalogue {MOST_UNJOINED_OF_ONE} times within {UNJOINED_S:g} s, and did "
                "not join: it has to wait"
            )
        if len(self._unjoined) >= MOST_UNJOINED:
            return (
                f"the catalogue was given {MOST_UNJOINED} times within {UNJOINED_S:g} s to who did not join: wait, or "
                "send with --key, so that only those who have the key are given it"
            )
        return ""

    def admit(self, receiver: int, address: str, now: float) -> None:
        """This number was given to somebody at this address, and to nobody before."""
        self._unjoined[receiver] = address, now
        self._unjoined_of[address] += 1
        self._all_of[address] += 1

    def note_in_vain(self, address: str) -> None:
        """A receiver of this address was waited for until it was silent too long, and never joined."""
        self._in_vain_of[address] += 1

    def join(self, receiver: int) -> None:
        """It was heard of; safe to repeat."""
        if receiver in self._unjoined:
            self._free(receiver)

    def _expire(self, now: float) -> None:
        while self._unjoined:
            receiver, (_, since) = next(iter(self._unjoined.items()))
            if now - since < UNJOINED_S:
                return
            self._free(receiver)

    def _free(self, receiver: int) -> None:
        address, _ = self._unjoined.pop(receiver)
        self._unjoined_of[address] -= 1
        if not self._unjoined_of[address]:
            del self._unjoined_of[address]
