"""A sender's side of catalogues, for tests of who fetches them."""

from imager.transport.catalogue import Catalogue


class Offering:
    """Offers one catalogue to everybody, and no chunks."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self.wanted: list[tuple[int, bytes | None]] = []

    def offer(self, peer: str) -> Catalogue:
        return self._catalogue

    def wants(self, receiver: int, wanted: bytes) -> None:
        self.wanted.append((receiver, wanted))

    def declined(self, receiver: int) -> None:
        self.wanted.append((receiver, None))

    def control_key(self, receiver: int) -> bytes | None:
        return None

    def fetches(self, receiver: int) -> None:
        raise AssertionError("nobody was let in")

    def read(self, receiver: int, index: int) -> bytes:
        raise AssertionError("nobody was let in")

    def asked_all(self, receiver: int, done: bool) -> None:
        raise AssertionError("nobody was let in")
