"""Makes the page of an appliance that serves inside a network namespace reachable from outside of it.

`python -m classroom.relay NAMESPACE` listens on the machine's own 127.0.0.1 and connects inside the namespace: a socket
belongs for ever to the namespace that it was made in.
"""

import asyncio
import contextlib
import ctypes
import socket
import sys
from pathlib import Path

PAGE_PORT = 8670
"""On both sides."""
_CHUNK_BYTES = 65536
_CLONE_NEWNET = 0x40000000


def relay_command(namespace: str) -> list[str]:
    """The command line of a relay."""
    return [sys.executable, "-m", "classroom.relay", namespace]


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
    with socket.create_server(("127.0.0.1", PAGE_PORT)) as listener:
        enter_namespace(sys.argv[1])
        asyncio.run(relay(listener, PAGE_PORT))


if __name__ == "__main__":
    main()
