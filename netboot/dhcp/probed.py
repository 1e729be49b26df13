"""What probes of addresses found, for as long as it is good. Pure; bounded."""

from ipaddress import IPv4Address

PROBE_FRESH_S = 60.0
"""A probe that found nobody is good for so long."""
_MOST = 65_536


class ProbedAddresses:
    """Who answered at which address, and where nobody did."""

    def __init__(self) -> None:
        self._nobody: dict[IPv4Address, float] = {}
        """Until when; the oldest first."""
        self._holders: dict[IPv4Address, tuple[str, float]] = {}

    def note_nobody(self, address: IPv4Address, now: float) -> None:
        self._holders.pop(address, None)
        self._nobody.pop(address, None)
        while self._nobody:
            oldest = next(iter(self._nobody))
            if self._nobody[oldest] > now and len(self._nobody) < _MOST:
                break
            del self._nobody[oldest]
        self._nobody[address] = now + PROBE_FRESH_S

    def note_holder(self, address: IPv4Address, mac: str, until_s: float) -> None:
        """`mac` is empty when it is not known."""
        self._nobody.pop(address, None)
        self._holders.pop(address, None)
        if len(self._holders) >= _MOST:
            del self._holders[next(iter(self._holders))]
        self._holders[address] = (mac, until_s)

    def forget(self, address: IPv4Address) -> None:
        self._nobody.pop(address, None)
        self._holders.pop(address, None)

    def is_fresh(self, address: IPv4Address, mac: str, now: float) -> bool:
        """Whether this machine may be offered this address without another probe: nobody else has it."""
        if (until_s := self._nobody.get(address)) is not None and now < until_s:
            return True
        return bool(mac) and self.holder(address, now) == mac

    def holder(self, address: IPv4Address, now: float) -> str | None:
        """Who answered; empty: somebody did; None: nobody did, or nobody asked."""
        held = self._holders.get(address)
        if held is None:
            return None
        mac, until_s = held
        if now >= until_s:
            del self._holders[address]
            return None
        return mac
