"""The page of an appliance inside the classroom is seen from outside of it."""

import http.client
import os
import socket
import sys
import time
from pathlib import Path

import pytest
from classroom.network import Classroom
from classroom.processes import PACKAGES, BackgroundProcess
from classroom.relay import free_port, relay_command
from classroom.run import Run

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_page_inside_the_namespace_is_fetched_from_outside(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "page").write_bytes(content)
    port = free_port(0)
    with Run(tmp_path / "lab") as run, Classroom(run) as classroom:
        serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", tmp_path, "8670"]
        log, environment = run.logs / "log", {"PYTHONPATH": str(PACKAGES)}
        relay = relay_command(classroom.server, port, 8670)
        with (
            BackgroundProcess("page", serve, log=log, namespace=classroom.server) as page,
            BackgroundProcess("relay", relay, log=log, environment=environment) as relaying,
        ):
            assert fetch(port, (page, relaying)) == content
            assert fetch(port, (page, relaying)) == content


def fetch(port: int, processes: tuple[BackgroundProcess, ...]) -> bytes:
    deadline = time.monotonic() + 20
    while True:
        for process in processes:
            process.check()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/page")
            return connection.getresponse().read()
        except (ConnectionError, http.client.HTTPException):  # they start
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            connection.close()


def test_a_port_in_use_is_not_chosen_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken = listener.getsockname()[1]
        assert free_port(taken) != taken
