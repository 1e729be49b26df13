"""The pages: GET only, rendered on the server, live by server-sent events. Nothing is fetched from elsewhere.

A page shows machine-supplied text, so every value is escaped by the template engine, and a strict policy allows only
the one script and the one style sheet of this very answer.
"""

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import jinja2
from fastapi import FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

import templates
from netboot.bootlog.words import shown
from netboot.deployment.boot_log import BootHistory
from netboot.deployment.live import Changes
from netboot.deployment.overview import Overview, SessionView
from netboot.deployment.states import OPEN_SESSION_STATES
from netboot.errors import NetbootError, UnknownError
from netboot.ui.words import ago, clock_time, date_time, duration, megabits, memory, size

STREAM_INTERVAL_S = 0.5
STREAM_SILENCE_S = 5.0
"""A page hears at least this often: what is shown has ages in it."""
DASHBOARD_SESSIONS = 5
DASHBOARD_EVENTS = 12

LATEST_BOOTS = 100
LATEST_IGNORED = 50
EARLIER_BOOTS = 10

NAVIGATION = (
    ("/", "Dashboard"),
    ("/machines", "Machines"),
    ("/images", "Images"),
    ("/sessions", "Sessions"),
    ("/boots", "Boot log"),
)

MachineName = Annotated[str, PathParameter(min_length=1, max_length=63)]
SessionId = Annotated[int, PathParameter(ge=1, le=2**31 - 1)]


def build_pages_app(overview: Overview, changes: Changes, history: BootHistory) -> FastAPI:
    """The app; it changes nothing."""
    app = FastAPI(title="Roomcast pages", openapi_url=None, docs_url=None, redoc_url=None)
    environment = build_environment()

    def page(name: str, active: str, live: str, status: int = 200, **values: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        template = environment.get_template(f"{name}.html.j2")
        text = template.render(nonce=nonce, navigation=NAVIGATION, active=active, live=live, **values)
        return HTMLResponse(text, status, headers=_headers(nonce))

    async def unknown(request: Request, error: Exception) -> Response:
        return page(
            "error", "", "", 404, text=str(error) if isinstance(error, NetbootError) else "There is no such page."
        )

    app.add_exception_handler(UnknownError, unknown)
    app.add_exception_handler(404, unknown)

    async def dashboard_values() -> dict[str, Any]:
        sessions = await overview.sessions(DASHBOARD_SESSIONS)
        return {
            "machines": await overview.machines(),
            "images": newest(await overview.images()),
            "open_sessions": [session for session in sessions if is_open(session)],
            "past_sessions": [session for session in sessions if not is_open(session)],
            "events": list(reversed(await overview.events(DASHBOARD_EVENTS))),
        }

    async def machines_values() -> dict[str, Any]:
        return {"machines": await overview.machines()}

    async def images_values() -> dict[str, Any]:
        return {"images": sorted(await overview.images(), key=lambda image: (image.name, -image.version))}

    async def sessions_values() -> dict[str, Any]:
        return {"sessions": await overview.sessions()}

    async def session_values(session_id: int) -> dict[str, Any]:
        return {"session": await overview.session(session_id)}

    async def boots_values() -> dict[str, Any]:
        ignored = history.recorder.ignored()
        return {"boots": await history.latest(LATEST_BOOTS), "ignored": ignored[:LATEST_IGNORED]}

    async def boot_values(name: str, macs: set[str]) -> dict[str, Any]:
        boots = await history.boots(macs, EARLIER_BOOTS + 1)
        return {"asked_for": name, "boot": boots[-1] if boots else None, "earlier": boots[-2::-1]}

    @app.get("/")
    async def dashboard() -> Response:
        return page("dashboard", "Dashboard", "/live/dashboard", **await dashboard_values())

    @app.get("/machines")
    async def machines() -> Response:
        return page("machines", "Machines", "/live/machines", **await machines_values())

    @app.get("/images")
    async def images() -> Response:
        return page("images", "Images", "/live/images", **await images_values())

    @app.get("/sessions")
    async def sessions() -> Response:
        return page("sessions", "Sessions", "/live/sessions", **await sessions_values())

    @app.get("/sessions/{session_id}")
    async def session(session_id: SessionId) -> Response:
        return page("session", "Sessions", f"/live/sessions/{session_id}", **await session_values(session_id))

    @app.get("/boots")
    async def boots() -> Response:
        return page("boots", "Boot log", "/live/boots", **await boots_values())

    @app.get("/boots/{name}")
    async def boot(name: MachineName) -> Response:
        values = await boot_values(name, await history.macs(name))
        return page("boot", "Boot log", f"/live/boots/{quote(name, safe='')}", **values)

    @app.get("/live/boots")
    async def live_boots() -> Response:
        return _stream(environment, "boots", boots_values, history.recorder.changes)

    @app.get("/live/boots/{name}")
    async def live_boot(name: MachineName) -> Response:
        macs = await history.macs(name)

        async def values() -> dict[str, Any]:
            return await boot_values(name, macs)

        return _stream(environment, "boot", values, history.recorder.changes)

    @app.get("/live/sessions/{session_id}")
    async def live_session(session_id: SessionId) -> Response:
        await overview.session(session_id)

        async def values() -> dict[str, Any]:
            return await session_values(session_id)

        return _stream(environment, "session", values, changes)

    sources = {
        "dashboard": dashboard_values,
        "machines": machines_values,
        "images": images_values,
        "sessions": sessions_values,
    }

    @app.get("/live/{name}")
    async def live(name: str) -> Response:
        if name not in sources:
            raise UnknownError("There is no such page.")
        return _stream(environment, name, sources[name], changes)

    @app.get("/healthz")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/favicon.ico")
    async def icon() -> Response:
        return PlainTextResponse("", 204)

    return app


def build_environment() -> jinja2.Environment:
    """Strict, escaping, with our words for sizes and times."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(templates.__file__).parent / "ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (size, memory, ago, duration, megabits, clock_time, date_time, shown):
        environment.filters[word.__name__] = word
    environment.tests["open_session"] = is_open
    return environment


def is_open(session: SessionView) -> bool:
    return session.state in OPEN_SESSION_STATES


def newest(images: list[Any]) -> list[Any]:
    """The newest version of each image, of a list by name and version."""
    return list({image.name: image for image in images}.values())


def _stream(environment: jinja2.Environment, name: str, values: Any, changes: Changes) -> Response:
    """The live part of a page as events, whenever it changed. JSON keeps a line break out of the event's syntax."""
    template = environment.get_template(f"{name}-live.html.j2")

    async def stream() -> AsyncIterator[str]:
        seen, shown = -1, ""
        while not changes.stopping:
            text = template.render(**await values())
            yield f"data: {json.dumps(text)}\n\n" if text != shown else ": nothing new\n\n"
            shown = text
            seen = await changes.next(seen, STREAM_INTERVAL_S, STREAM_SILENCE_S)

    headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def _headers(nonce: str) -> dict[str, str]:
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }
