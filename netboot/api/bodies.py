"""Bodies of requests and errors as answers, the same for both API apps."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from imager.errors import ImagerError, PeerError, SourceError, StoreError, TargetError
from netboot.config.mistakes import ConfigError
from netboot.deployment.agents import TaskEnded
from netboot.errors import ConflictError, NetbootError, UnknownError, UserError

log = structlog.get_logger()


class BodyTooLarge(UserError):
    """A request's body is larger than its path takes."""


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is longer than `limit_bytes`, whatever its header says."""
    announced = request.headers.get("content-length", "0")
    parts: list[bytes] = []
    length = 0
    if not announced.isdecimal() or int(announced[:20]) > limit_bytes:
        raise BodyTooLarge(f"the body is larger than {limit_bytes} bytes")
    async for part in request.stream():
        length += len(part)
        if length > limit_bytes:
            raise BodyTooLarge(f"the body is larger than {limit_bytes} bytes")
        parts.append(part)
    return b"".join(parts)


def status_of(error: NetbootError | ImagerError) -> int:
    """The HTTP status that tells this error."""
    match error:
        case TaskEnded():
            return 410
        case BodyTooLarge():
            return 413
        case UnknownError():
            return 404
        case ConflictError():
            return 409
        case UserError() | PeerError() | SourceError() | TargetError():
            return 400
        case StoreError():
            return 507
        case _:
            return 500


def add_error_handlers(app: FastAPI) -> None:
    """Answer our own errors and wrong parameters as `{"detail": "one line"}`."""

    async def own_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, NetbootError | ImagerError)
        status = status_of(error)
        if status >= 500:
            log.error("request failed", path=request.url.path, error=str(error))
        # The rest of a body that is too large is not read: the connection must end with the answer.
        headers = {"connection": "close"} if status == 413 else {}
        body: dict[str, Any] = {"detail": str(error)}
        if isinstance(error, ConfigError):
            body["mistakes"] = [dataclasses.asdict(mistake) for mistake in error.mistakes]
        return JSONResponse(body, status, headers)

    async def wrong_parameter(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        lines = [f"{'.'.join(str(part) for part in e['loc'][1:])}: {e['msg']}" for e in error.errors()]
        return JSONResponse({"detail": "; ".join(lines)}, 422)

    handlers: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
        NetbootError: own_error,
        ImagerError: own_error,
        RequestValidationError: wrong_parameter,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
