"""Who takes part in a sending, as the sender knows it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from imager.wire.seal import Cipher


class Standing(StrEnum):
    """Where a receiver is."""

    EXPECTED = "expected"
    """Admitted, not heard of."""
    JOINED = "joined"
    DEMOTED = "demoted"
    """Slow: served when nobody else is waited for."""
    DONE = "done"
    FAILED = "failed"


@dataclass(slots=True)
class Member:
    """One admitted receiver."""

    standing: Standing
    heard_at: float
    """When it last said anything, or was admitted."""
    cipher: Cipher
    """Of its control key."""
    counter: int = -1
    """Of the last datagram that was taken from it."""
    said: int = 0
    """Datagrams that were sent to it."""


class Roster:
    """The admitted receivers of a session."""

    def __init__(self, silence_timeout_s: float) -> None:
        self._silence_timeout_s = silence_timeout_s
        self._members: dict[int, Member] = {}
        self._silence_at: float | None = None

    def admit(self, receiver: int, cipher: Cipher, now: float) -> None:
        """Expect a receiver. Raises ValueError when its number was used before."""
        if receiver in self._members:
            raise ValueError(f"receiver {receiver} was admitted before")
        self._members[receiver] = Member(Standing.EXPECTED, now, cipher)
        if self._silence_at is None:
            self._silence_at = now + self._silence_timeout_s

    def get(self, receiver: int) -> Member | None:
        return self._members.get(receiver)

    def joined(self) -> list[int]:
        """Receivers that were heard of and are neither done nor failed."""
        return [number for number, member in self._members.items() if member.standing is Standing.JOINED]

    def waited_for(self) -> list[int]:
        """Receivers that are neither done, failed nor demoted."""
        return [number for number, member in self._members.items() if self._counts(member)]

    def restore_demoted(self, now: float) -> list[int]:
        """All that are demoted are waited for again, and have the silence timeout from now."""
        demoted = [number for number, member in self._members.items() if member.standing is Standing.DEMOTED]
        for number in demoted:
            self.restore(number, now)
        return demoted

    def restore(self, receiver: int, now: float) -> None:
        """A demoted receiver is waited for again."""
        member = self._members[receiver]
        member.standing, member.heard_at = Standing.JOINED, now
        if self._silence_at is None:
            self._silence_at = now + self._silence_timeout_s

    def silent(self, now: float) -> list[int]:
        """Receivers that are waited for and have said nothing for too long."""
        if self._silence_at is None or now < self._silence_at:
            return []
        waited_for = {number: member for number, member in self._members.items() if self._counts(member)}
        limit = now - self._silence_timeout_s
        found = [number for number, member in waited_for.items() if member.heard_at <= limit]
        times = [member.heard_at for member in waited_for.values() if member.heard_at > limit]
        self._silence_at = min(times) + self._silence_timeout_s if times else None
        return found

    def next_silence(self) -> float | None:
        """When to ask for the silent next: not after the first of them will be. It is not looked for at each packet:
        there may be thousands.
        """
        return self._silence_at

    def start_clock(self, now: float) -> None:
        """Silence counts from now: while a session waited for others, nobody was asked to speak."""
        for member in self._members.values():
            member.heard_at = max(member.heard_at, now)
        self._silence_at = now + self._silence_timeout_s if self._members else None

    @staticmethod
    def _counts(member: Member) -> bool:
        return member.standing in (Standing.EXPECTED, Standing.JOINED)
