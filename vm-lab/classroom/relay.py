"""Makes the page of an appliance that serves inside a network namespace reachable from outside of it.

`python -m classroom.relay NAMESPACE OUTSIDE INSIDE` listens on port OUTSIDE of the machine's own 127.0.0.1 and connects
to port INSIDE of the namespace's: a socket belongs for ever to the namespace that it was made in.
"""

import asyncio
import contextlib
import ctypes
import socket
import sys
from pathlib import Path

PAGE_PORT = 8670
_CHUNK_BYTES = 65536
_CLONE_NEWNET = 0x40000000


def relay_command(namespace: str, outside: int, inside: int) -> list[str]:
    """The command line of a relay."""
    return [sys.executable, "-m", "classroom.relay", namespace, str(outside), str(inside)]


def free_port(wanted: int) -> int:
    """`wanted` when nobody listens there on 127.0.0.1, else another."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def enter_namespace(name: str) -> None:
    """Let this process make its further sockets in the network namespace `name`. OSError when there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (Path("/run/netns") / name).open("rb") as namespace:
        if libc.setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network namespace {name} cannot be entered")


async def relay(listener: socket.socket, port: int) -> None:
    """Carry every connection to `listener` on to 127.0.0.1 `port`, until cancelled."""

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return
            with contextlib.closing(there_writer):
                await asyncio.wait(
                    [
                        asyncio.ensure_future(_copy(reader, there_writer)),
                        asyncio.ensure_future(_copy(there_reader, writer)),
                    ]
                )

    server = await asyncio.start_server(carry, sock=listener)
    async with server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


def main() -> None:
    namespace, outside, inside = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.create_server(("127.0.0.1", outside)) as listener:
        enter_namespace(namespace)
        asyncio.run(relay(listener, inside))


if __name__ == "__main__":
    main()
