"""The pages: escaping, policy, and what they show live."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from deployment_builders import a_bench, done, failed
from dhcp_builders import MAC, a_discover, an_arrival
from inventories import an_inventory
from sqlalchemy import Engine, event

from imager.wire.messages import Progress, Task, decode, encode
from netboot.cli.output import bytes_text, duration_text, rate_text
from netboot.model import Ignored
from netboot.services.boot_log import BootRecorder
from netboot.ui.pages import build_environment, build_pages_app
from netboot.ui.words import duration, megabits, memory, size
from netboot.wire.dhcp_options import HOST_NAME, VENDOR_CLASS

A = b"a" * 4096
PAGES = ("/", "/machines", "/images", "/sessions", "/sessions/1", "/boots", "/boots/52-54-00-00-00-01")
EVIL = '"><script>alert(1)</script>{{ 7*7 }}'


def run(coroutine: Any) -> None:
    asyncio.run(coroutine)


class Elements(HTMLParser):
    """Start tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_pages_show_machines_images_and_one_bar_a_machine(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            manifest = bench.keep_image("golden", A)
            names = []
            clients = []
            for number in range(1, 5):
                registration, client = await bench.register(an_inventory(f"52:54:00:00:00:{number:02x}"))
                names.append(registration.name)
                clients.append(client)
            await bench.deploy("golden", "all")
            tasks = [decode(Task, (await client.get("/agent/v1/task")).content) for client in clients[:3]]
            half = Progress("receive", 50, 100, 1e6, 1, 2)
            await clients[0].post(f"/agent/v1/tasks/{tasks[0].id}/progress", content=encode(half))
            await clients[1].post(f"/agent/v1/tasks/{tasks[1].id}/result", content=done(manifest.hash.hex()))
            await clients[2].post(f"/agent/v1/tasks/{tasks[2].id}/result", content=failed("the disk is too small"))
            page = (await bench.pages.get("/")).text
            bars = [attributes for tag, attributes in Elements(page).found if tag == "progress"]
            assert [(bar["aria-label"], bar["value"]) for bar in bars] == list(
                zip(names, ["50.0", "100.0", "0.0", "0.0"], strict=True)
            )
            assert "the disk is too small" in page and "golden" in page
            for path in PAGES:
                answer = await bench.pages.get(path)
                assert answer.status_code == 200, path
                for word in ("Dashboard", "Machines", "Images", "Sessions", "Boot log"):
                    assert f">{word}</a>" in answer.text

    run(story())


def note_a_boot(log: BootRecorder, text: str) -> None:
    """A BIOS machine that asks, with this text wherever a stranger may put one."""
    asked = a_discover(0)
    options = asked.options.with_option(HOST_NAME, text).with_option(VENDOR_CLASS, f"PXEClient:Arch:00000:{text}")
    asked = replace(asked, options=options)
    log.exchanged(asked, an_arrival(), Ignored(text))
    for peer in (MAC, text):
        log.http_refused(peer, text, text)
    log.junk(text, text)


def test_boot_page_tells_the_boot_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            unheard = (await bench.pages.get(f"/boots/{MAC}")).text
            assert "Nothing was heard of it yet" in unheard
            note_a_boot(bench.appliance.boot_log, "pool exhausted: 10.77.0.100 to 10.77.0.199 are in use")
            page, listed = (await bench.pages.get(f"/boots/{MAC}")).text, (await bench.pages.get("/boots")).text
            assert "<b>Next:</b> widen the pool" in page
            for text in (page, listed):
                assert "it asked as BIOS (arch 0) and got no answer: pool exhausted" in text
            assert f'href="/boots/{MAC}"' in listed.replace("%3A", ":")
            assert "not a DHCP packet: pool exhausted" in listed

    run(story())


def test_boot_page_goes_on_as_the_machine_does(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            appliance = bench.appliance
            app = build_pages_app(appliance.overview, appliance.changes, appliance.boot_history)
            logging = asyncio.create_task(appliance.boot_log.run())
            stream = Stream(app, f"/live/boots/{MAC}")
            watching = asyncio.create_task(stream.run())
            assert "Nothing was heard" in await stream.part()
            note_a_boot(appliance.boot_log, "pool exhausted")
            assert "DISCOVER BIOS (arch 0)" in await stream.part()
            logging.cancel()  # the stream ends when the appliance shuts down
            await asyncio.gather(logging, return_exceptions=True)
            await asyncio.wait_for(watching, 30)

    run(story())


def test_text_of_machines_never_becomes_markup(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            bench.keep_image("golden", A)
            evil = an_inventory(manufacturer=EVIL, product=EVIL, serial=EVIL, cpu_model=EVIL)
            registration, client = await bench.register(evil)
            note_a_boot(bench.appliance.boot_log, EVIL)
            await bench.deploy("golden", registration.name)
            task = decode(Task, (await client.get("/agent/v1/task")).content)
            await client.post(f"/agent/v1/tasks/{task.id}/progress", content=encode(Progress(EVIL[:60], 1, 2, 0.0)))
            for path in PAGES:
                scripts = [tag for tag, _ in Elements((await bench.pages.get(path)).text).found if tag == "script"]
                assert scripts == ["script"], path
            await client.post(f"/agent/v1/tasks/{task.id}/result", content=failed(EVIL))
            for path in PAGES:
                text = (await bench.pages.get(path)).text
                assert "<script>alert" not in text and "49" not in re.findall(r"\{\{ (.*?) \}\}", text)
                assert [tag for tag, _ in Elements(text).found if tag == "script"] == ["script"], path

    run(story())


def test_policy_allows_the_one_script_of_this_answer_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            first, second = await bench.pages.get("/"), await bench.pages.get("/")
            policy = first.headers["content-security-policy"]
            assert policy != second.headers["content-security-policy"]
            (nonce,) = set(re.findall(r"'nonce-([^']+)'", policy))
            assert "default-src 'none'" in policy and "unsafe" not in policy
            for tag, attributes in Elements(first.text).found:
                if tag in ("script", "style"):
                    assert attributes["nonce"] == nonce and "src" not in attributes
                assert not any(name.startswith("on") or name == "style" for name in attributes)
                for name in ("src", "href"):
                    assert (attributes.get(name) or "/").startswith("/")

    run(story())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_change_nothing(tmp_path: Path, method: str) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for path in PAGES:
                assert (await bench.pages.request(method, path)).status_code == 405
            for path in ("/api/v1/deploy", "/agent/v1/register"):
                assert (await bench.pages.request(method, path)).status_code == 404

    run(story())


def test_unknown_page_is_a_page_too(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            for path in ("/nope", "/sessions/99", "/live/nope", "/boots/pc-99", "/live/boots/pc-99"):
                answer = await bench.pages.get(path)
                assert answer.status_code == 404
                assert "Dashboard" in answer.text

    run(story())


class Stream:
    """A client of one stream of server-sent events that sees each as it is sent; httpx's own waits for the last."""

    def __init__(self, app: Any, path: str) -> None:
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"appliance")],
            "client": ("127.0.0.1", 40000),
            "server": ("appliance", 80),
        }
        self._app = app
        self._parts: asyncio.Queue[str] = asyncio.Queue()
        self.headers: dict[bytes, bytes] = {}

    async def run(self) -> None:
        """Until the appliance ends it."""
        await self._app(self._scope, self._receive, self._send)

    async def part(self) -> str:
        async with asyncio.timeout(30):
            return await self._parts.get()

    async def _receive(self) -> Any:
        await asyncio.Event().wait()  # a client that stays

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
        for line in message.get("body", b"").decode().splitlines():
            if line.startswith("data: "):
                self._parts.put_nowait(json.loads(line[6:]))


def test_live_part_is_told_when_it_changes(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            stream = Stream(
                build_pages_app(bench.appliance.overview, bench.appliance.changes, bench.appliance.boot_history),
                "/live/machines",
            )
            watching = asyncio.create_task(stream.run())
            assert "No machine has registered" in await stream.part()
            assert stream.headers[b"content-type"].startswith(b"text/event-stream")
            registration, _ = await bench.register(an_inventory())
            assert registration.name in await stream.part()
            bench.appliance.changes.stop()  # the stream ends when the appliance shuts down
            await asyncio.wait_for(watching, 30)

    run(story())


def test_pages_ask_the_database_no_oftener_for_a_full_room(tmp_path: Path) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            manifest = bench.keep_image("golden", A)
            asked: list[str] = []

            def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
                if statement.startswith("SELECT"):
                    asked.append(statement)

            event.listen(Engine, "before_cursor_execute", count)
            try:
                counts: list[list[int]] = []
                for room in (range(1, 3), range(3, 13)):
                    for number in room:
                        registration, client = await bench.register(an_inventory(f"52:54:00:00:01:{number:02x}"))
                        await bench.deploy("golden", registration.name)
                        task = decode(Task, (await client.get("/agent/v1/task")).content)
                        result = done(manifest.hash.hex())
                        await client.post(f"/agent/v1/tasks/{task.id}/result", content=result)
                    counts.append([])
                    for path in PAGES:
                        asked.clear()
                        assert (await bench.pages.get(path)).status_code == 200
                        counts[-1].append(len(asked))
            finally:
                event.remove(Engine, "before_cursor_execute", count)
            assert all(later <= first for first, later in zip(*counts, strict=True)), counts
            assert max(counts[1]) <= 8

    run(story())


SLOW = (0.0, 5e-324, 1e-300, 0.5, 1.0, 1e15)


@pytest.mark.parametrize("rate", SLOW)
def test_every_rate_and_size_that_is_taken_is_shown(tmp_path: Path, rate: float) -> None:
    async def story() -> None:
        async with a_bench(tmp_path) as bench:
            bench.keep_image("golden", A)
            registration, client = await bench.register(an_inventory(memory_bytes=2**62, boot_s=1e15))
            session = await bench.deploy("golden", registration.name)
            task = decode(Task, (await client.get("/agent/v1/task")).content)
            progress = Progress("scan", 1, 2**62, rate, 1, 2**62)
            answer = await client.post(f"/agent/v1/tasks/{task.id}/progress", content=encode(progress))
            assert answer.is_success
            for path in PAGES:
                assert (await bench.pages.get(path)).status_code == 200, path
            told = (await bench.admin.get(f"/api/v1/sessions/{session['id']}")).json()["tasks"][0]["progress"]
            assert told["rate_bytes_s"] == (rate if rate >= 1 else 0)

    run(story())


@pytest.mark.parametrize("number", [0.0, 5e-324, 59.96, 3.6e6, 1e15, 2.0**62, 1e308, float("inf"), float("nan")])
@pytest.mark.parametrize("word", [duration, duration_text, size, bytes_text, megabits, rate_text, memory])
def test_words_are_short_for_any_number(word: Callable[[float], str], number: float) -> None:
    assert len(word(number)) < (30 if number < 1e16 else 450)


def test_templates_escape_and_are_strict() -> None:
    environment = build_environment()
    assert environment.from_string("{{ x }}").render(x="<b>") == "&lt;b&gt;"
    with pytest.raises(Exception, match="undefined"):
        environment.from_string("{{ nosuch }}").render()


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (999_600, "1 MB"), (1_234_000_000, "1.23 GB")]
)
def test_sizes_have_three_digits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (60, "1:00"), (187, "3:07"), (3753, "1:02:33")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
