"""The command line's side of the administrators' API: HTTP over the appliance's unix socket."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netboot.config import ConfigError, Mistake, socket_path
from netboot.errors import ConflictError, ServiceError, UnknownError, UserError

ANSWER_S = 60.0
"""How long the appliance may take to answer; image work is not asked for through it by this command line."""
STREAM_SILENCE_S = 30.0


class ApplianceClient:
    """One command's conversation with the appliance. A context manager."""

    def __init__(self, socket: Path | None) -> None:
        import httpx

        self._httpx = httpx
        self._path = socket_path(socket)
        self._client = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._path)), base_url="http://appliance", timeout=ANSWER_S
        )

    def __enter__(self) -> "ApplianceClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, params=params).json()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, json=body or {}).json()

    def post_for_text(self, path: str, body: dict[str, Any]) -> str:
        text: str = self._ask("POST", path, json=body).text
        return text

    def stream(self, path: str) -> Iterator[Any]:
        """The values of a stream of server-sent events, until the appliance ends it."""
        told = False
        try:
            with self._client.stream("GET", path, timeout=STREAM_SILENCE_S) as response:
                if response.status_code >= 400:
                    response.read()
                    self._raise(response)
                for line in response.iter_lines():
                    if line.startswith("data: "):
                        told = True
                        yield json.loads(line.removeprefix("data: "))
        except self._httpx.TransportError as error:
            if told:
                raise ServiceError("the appliance went away while it was watched: start it again") from error
            raise self._unreachable(error) from error

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._client.request(method, path, **more)
        except self._httpx.TransportError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            self._raise(response)
        return response

    def _unreachable(self, error: Exception) -> ServiceError:
        if not self._path.exists():
            return ServiceError(f"no appliance serves here ({self._path} is missing): start it with `roomcast serve`")
        if "ermission" in str(error):
            return ServiceError(f"{self._path} is its owner's: run this with sudo")
        return ServiceError(f"the appliance at {self._path} does not answer: {str(error) or type(error).__name__}")

    def _raise(self, response: Any) -> None:
        try:
            told = response.json()
            text = str(told["detail"])
            if "mistakes" in told:
                raise ConfigError([Mistake(**mistake) for mistake in told["mistakes"]])
        except (ValueError, KeyError, TypeError):
            text = f"the appliance answered {response.status_code}"
        match response.status_code:
            case 404:
                raise UnknownError(text)
            case 409:
                raise ConflictError(text)
            case status if status < 500:
                raise UserError(text)
            case _:
                raise ServiceError(text)
