"""How `roomcast receive` finds a sender among those that announce what they do not have, on loopback."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from offer_builders import Offering

from imager.errors import CastError
from imager.transport.catalogue import Catalogue, fetch_catalogue, root_hash
from imager.transport.catalogue_server import CatalogueServer
from imager.transport.file_cast import ReceiveOptions, SendOptions
from imager.transport.file_receive import receive_file
from imager.transport.file_send import send_file
from imager.wire.announce import Announce, build_announce
from imager.wire.groups import DISCOVERY_GROUP
from imager.wire.messages import CastAddress
from imager.wire.session import PACKET_BYTES

LOOPBACK = "127.0.0.1"
CAST = CastAddress(1, 1, "239.77.5.5", 7711, "", 7712, PACKET_BYTES, "11" * 32, "22" * 32)


def a_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
        return port


def a_closed_tcp_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def announcing(port: int, *catalogue_ports: int) -> Iterator[None]:
    """Announces a file at each of these ports, again and again."""
    stop = threading.Event()

    def announce() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
            while True:
                for catalogue_port in catalogue_ports:
                    data = build_announce(Announce(1, catalogue_port, 7711, 7712, "239.77.5.5", "file"))
                    sock.sendto(data, (DISCOVERY_GROUP, port))
                sock.sendto(b"junk", (DISCOVERY_GROUP, port))
                if stop.wait(0.02):
                    return

    thread = threading.Thread(target=announce)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def a_damaged_catalogue(stack: ExitStack) -> int:
    hashes = [blake3(b"1").digest(), blake3(b"2").digest()]
    server = CatalogueServer(LOOPBACK, 0, Offering(Catalogue("file", 5, 4, "00" * 32, CAST)), hashes)
    stack.callback(server.close)
    return server.port


def test_sender_whose_catalogue_cannot_be_had_is_passed_over(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"content" * 1000)
    port = a_udp_port()
    with ExitStack() as stack:
        fakes = [a_closed_tcp_port(), a_damaged_catalogue(stack)]
        stack.enter_context(announcing(port, *fakes))
        heard = threading.Event()
        sending = threading.Thread(
            target=lambda: heard.wait(60) and send_file(source, SendOptions("lo", port=port, max_wait_s=0.1))
        )
        sending.start()
        stack.callback(sending.join)
        stack.callback(heard.set)
        threading.Timer(0.2, heard.set).start()  # the fakes are heard first
        result = receive_file(tmp_path / "out", ReceiveOptions("lo", port, max_wait_s=60))
        assert result.output.read_bytes() == source.read_bytes()


def test_receiver_tells_at_the_end_what_failed(tmp_path: Path) -> None:
    port = a_udp_port()
    closed = a_closed_tcp_port()
    with (
        announcing(port, closed),
        pytest.raises(CastError, match=f"could be used; the last: cannot fetch .* TCP port {closed}.*refused"),
    ):
        receive_file(tmp_path / "out", ReceiveOptions("lo", port, max_wait_s=1.0))
    assert list(tmp_path.iterdir()) == []


def test_receiver_that_heard_nobody_says_so(tmp_path: Path) -> None:
    with pytest.raises(CastError, match=r"no sender announced a file within 0\.2 s; is it on the same network"):
        receive_file(tmp_path / "out", ReceiveOptions("lo", a_udp_port(), max_wait_s=0.2))


@contextmanager
def a_peer(say: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that says this to the first who connects, then waits for the end of the test."""
    over = threading.Event()
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            say(connection)
            over.wait(60)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listener.close()


def test_sender_that_never_ends_its_catalogue_is_given_up() -> None:
    began = time.monotonic()
    with (
        a_peer(lambda connection: connection.sendall(b"\0\0\1\0")) as port,
        pytest.raises(CastError, match="timed out"),
    ):
        fetch_catalogue(LOOPBACK, port, within_s=0.2)
    assert time.monotonic() - began < 9


def test_long_catalogue_comes_whole() -> None:
    hashes = [number.to_bytes(32, "big") for number in range(50_000)]
    size = 4 * len(hashes)
    server = CatalogueServer(LOOPBACK, 0, Offering(Catalogue("f", size, 4, root_hash(size, hashes), CAST)), hashes)
    try:
        assert fetch_catalogue(LOOPBACK, server.port)[1] == hashes
    finally:
        server.close()
