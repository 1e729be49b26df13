"""The sockets of the cast on the loopback interface, with and without GSO and GRO."""

import errno
import select
import socket

import numpy as np
import pytest

from imager.errors import CastError
from imager.transport.endpoint import GroupReceiver, GroupSender
from imager.transport.interfaces import interface_address
from imager.wire.seal import ByteArray
from imager.wire.session import PACKET_BYTES

GROUP = "239.77.99.1"
LOOPBACK = "127.0.0.1"


def a_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
        return port


def some_packets(count: int) -> ByteArray:
    return np.random.default_rng(count).integers(0, 256, (count, PACKET_BYTES), np.uint8)


def receive_all(receiver: GroupReceiver, count: int) -> ByteArray:
    """Packets until there are `count`."""
    found: list[ByteArray] = []
    while sum(map(len, found)) < count:
        ready, _, _ = select.select([receiver], [], [], 5)
        assert ready, f"{sum(map(len, found))} of {count} packets arrived"
        found.append(receiver.receive().copy())
    return np.concatenate(found)


class TestEndpoint:
    @pytest.mark.parametrize("gso", [True, False], ids=["GSO", "no GSO"])
    @pytest.mark.parametrize("gro", [True, False], ids=["GRO", "no GRO"])
    def test_packets_arrive_as_they_were_sent(self, gso: bool, gro: bool) -> None:
        port = a_port()
        receiver = GroupReceiver(GROUP, port, LOOPBACK, use_gro=gro)
        sender = GroupSender(GROUP, port, LOOPBACK, ttl=0, use_gso=gso)
        assert (sender.gso, receiver.gro) == (gso, gro)
        bursts = [some_packets(count) for count in (44, 1, 95, 7)]
        for burst in bursts:
            sender.send(burst)
        assert np.array_equal(receive_all(receiver, 147), np.concatenate(bursts))
        receiver.close()
        sender.close()

    def test_a_kernel_that_refuses_segmentation_gets_the_packets_one_by_one(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        port = a_port()
        receiver = GroupReceiver(GROUP, port, LOOPBACK)
        sender = GroupSender(GROUP, port, LOOPBACK, ttl=0)
        plain = sender._send

        def refuse(data: memoryview) -> None:
            if len(data) > PACKET_BYTES:
                raise OSError(errno.EIO, "no checksum offload")
            plain(data)

        monkeypatch.setattr(sender, "_send", refuse)
        burst = some_packets(50)
        sender.send(burst)
        assert not sender.gso
        assert np.array_equal(receive_all(receiver, 50), burst)
        receiver.close()
        sender.close()

    def test_datagrams_of_another_length_are_counted_and_do_not_shift_the_others(self) -> None:
        port = a_port()
        receiver = GroupReceiver(GROUP, port, LOOPBACK)
        sender = GroupSender(GROUP, port, LOOPBACK, ttl=0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
            burst = some_packets(3)
            for junk in (b"", b"x", bytes(PACKET_BYTES - 1), bytes(2000)):
                stranger.sendto(junk, (GROUP, port))
            sender.send(burst)
        found = receive_all(receiver, 4)  # 2,000 bytes are one packet of zeros, for the session to refuse
        assert np.array_equal(found[-3:], burst)
        assert receiver.foreign == 4
        receiver.close()
        sender.close()

    def test_foreign_datagrams_do_not_hold_a_call_however_many_wait(self) -> None:
        receiver = GroupReceiver(GROUP, port := a_port(), LOOPBACK, use_gro=False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(LOOPBACK))
            for _ in range(1000):
                sock.sendto(b"x", (GROUP, port))
        select.select([receiver], [], [], 5)
        assert len(receiver.receive()) == 0
        assert 0 < receiver.foreign < 300
        receiver.close()

    def test_what_came_in_small_pieces_is_taken_many_at_a_time_and_what_is_left_is_known(self) -> None:
        receiver = GroupReceiver(GROUP, port := a_port(), LOOPBACK, use_gro=False)
        sender = GroupSender(GROUP, port, LOOPBACK, ttl=0, use_gso=False)
        for _ in range(3):
            sender.send(some_packets(40))
        taken = []
        while not taken or not receiver.is_drained:
            select.select([receiver], [], [], 5)
            taken.append(len(receiver.receive()))
        assert sum(taken) == 120
        assert len(taken) < 4
        receiver.close()
        sender.close()

    def test_what_the_kernel_drops_for_want_of_time_is_counted(self) -> None:
        receiver = GroupReceiver(GROUP, port := a_port(), LOOPBACK, buffer_bytes=64 << 10)
        sender = GroupSender(GROUP, port, LOOPBACK, ttl=0)
        sender.send(some_packets(7))
        receive_all(receiver, 7)
        assert receiver.overruns() == 0
        for _ in range(20):
            sender.send(some_packets(44))
        assert receiver.overruns() > 0
        receiver.close()
        sender.close()

    def test_an_interface_that_does_not_exist_is_one_clear_line(self) -> None:
        assert interface_address("lo") == LOOPBACK
        with pytest.raises(CastError, match="there is no interface nope0"):
            interface_address("nope0")
