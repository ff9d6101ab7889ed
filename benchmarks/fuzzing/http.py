"""Bodies of HTTP, to the server of samples and to the playground."""

from __future__ import annotations

import asyncio
import json
import random
import urllib.parse
from collections.abc import Mapping
from typing import Any, Final, final

import httpx
import torch

from noise_scheduler_sampling_system import DiffusionPipeline
from noise_scheduler_sampling_system.integrations.named_models import NamedModel
from noise_scheduler_sampling_system.playground import make_app
from noise_scheduler_sampling_system.serving.http.application import make_application
from noise_scheduler_sampling_system.serving.http.limits import Limits
from noise_scheduler_sampling_system.serving.http.service import Service

from .case import Case, Kind, RefusedInputError
from .files import bomb
from .mutation import changed

__all__ = ["PlaygroundKind", "ServingKind"]

_PATHS: Final = ("/", "/health", "/v1/samples/", "/v1/../x", "/%00", "/api/plan/", "/x" * 2000, "/data/../server.py")
_HEADERS: Final[tuple[dict[str, str], ...]] = (
    {}, {}, {}, {}, {"host": "evil.example"}, {"host": ""}, {"origin": "https://evil.example"}, {"content-type": "x/y"},
    {"content-encoding": "gzip"}, {"content-length": "5"}, {"transfer-encoding": "gzip"}, {"accept": "x" * 5000},
)  # fmt: skip


class _HttpKind(Kind):
    """Requests to an ASGI application in this process.

    Args:
        application: is given the requests.
        bodies: valid ones, with their paths.
    """

    def __init__(self, application: Any, bodies: list[tuple[str, Mapping[str, Any]]]) -> None:
        self._application, self._bodies = application, bodies
        self._loop = asyncio.new_event_loop()

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def valid(self) -> list[Case]:
        return [self._case("POST", path, json.dumps(body).encode(), {}) for path, body in self._bodies]

    def drawn(self, draw: random.Random) -> Case:
        path, body = draw.choice(self._bodies)
        data = json.dumps(body).encode()
        data = bomb("body.json", draw) if draw.random() < 0.1 else changed(data, draw, ".json")
        if draw.random() < 0.05:
            path = draw.choice(_PATHS)
        method = draw.choice(["GET", "PUT", "OPTIONS", "DELETE", "X"]) if draw.random() < 0.03 else "POST"
        return self._case(method, path, data, draw.choice(_HEADERS) if draw.random() < 0.2 else {})

    def _case(self, method: str, path: str, data: bytes, headers: Mapping[str, str]) -> Case:
        async def answer() -> httpx.Response:
            given = {"content-type": "application/json", **headers}
            transport = httpx.ASGITransport(self._application)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=None) as client:
                return await client.request(method, urllib.parse.quote(path, safe="/%"), content=data, headers=given)

        def use(_: object) -> None:
            reply = self._loop.run_until_complete(answer())
            if reply.status_code >= 400:
                _refused(reply)
            for line in reply.text.splitlines() if "json" not in reply.headers.get("content-type", "json") else ():
                if line.startswith("data: ") and '"error"' in line:  # of a stream
                    _refused_by(json.loads(line[6:])["error"])

        head = json.dumps([method, path, dict(headers)]).encode()
        return Case({"body.json": data, "request.txt": head}, use, seconds=5.0)


def _refused(reply: httpx.Response) -> None:
    """Raise RefusedInputError for an error of the library; any other is a fault."""
    assert reply.status_code < 500 or reply.status_code in (503, 504), (
        f"status {reply.status_code}: {reply.text[:1000]}"
    )
    if "json" in reply.headers.get("content-type", "") and "error" in reply.json():
        _refused_by(reply.json()["error"])
    assert reply.status_code in (404, 405), f"status {reply.status_code}: {reply.text[:1000]}"
    raise RefusedInputError(f"status {reply.status_code}")


def _refused_by(error: Any) -> None:
    told = json.dumps(error)
    assert error["category"] not in ("model", "internal"), told[:1000]
    assert error["suggestion"], f"no advice: {told[:1000]}"
    assert len(told) < 20_000, f"{len(told)} characters: {told[:300]}"
    raise RefusedInputError(str(error["category"]), told)


def _network(x: torch.Tensor, t: Any, class_labels: torch.Tensor | None = None) -> torch.Tensor:
    shift = 0.0 if class_labels is None else 0.01 * class_labels.reshape(-1, 1, 1, 1)
    return 0.5 * x + shift


_network.null_condition = lambda condition: {  # type: ignore[attr-defined]
    "class_labels": torch.zeros_like(condition["class_labels"])
}


@final
class ServingKind(_HttpKind):
    """Bodies of ``POST /v1/samples``."""

    name = "serving"

    def __init__(self) -> None:
        plan = DiffusionPipeline(None, "dpmpp_2m").plan(3).to_dict()
        self._service = Service(NamedModel("test", _network, (1, 4, 4), 10), Limits(batch=8, steps=50, seconds=30.0))
        super().__init__(make_application(self._service), [
            ("/v1/samples", body)
            for body in (
                {"steps": 3, "seed": 1, "num_samples": 2}, {"plan": plan, "seed": 3, "format": "safetensors"},
                {"labels": [1, 2], "guidance_scale": 2.0, "sampler": "heun", "steps": 2, "format": "png"},
                {"sampler": "ddim", "options": {"eta": 0.5}, "spacing": "karras", "steps": 2, "priority": 1.0},
                {"labels": 3, "steps": 2, "stream": True, "previews": True, "deadline": 20.0, "first_index": 5},
            )
        ])  # fmt: skip

    def close(self) -> None:
        super().close()
        self._service.batcher.close(finish=False)


@final
class PlaygroundKind(_HttpKind):
    """Bodies of the calls of the playground's page."""

    name = "playground"

    def __init__(self) -> None:
        panel = {
            "path": "linear", "grid": "karras", "sampler": "dpmpp_2m", "steps": 3, "path_options": {},
            "grid_options": {"rho": 5.0}, "options": {}, "levels": None, "guidance": 1.0,
        }  # fmt: skip
        moved = {
            **panel,
            "levels": [None, -2.0, 1.0],
            "path": "flow",
            "path_options": {"shift": 2.0},
            "grid_options": {},
        }
        super().__init__(make_app(), [
            ("/api/plan", panel), ("/api/plan", {**moved, "sampler": "heun"}), ("/api/path", moved),
            ("/api/noise", {"seed": 1, "keys": [[0, 0], [1, 1]]}), ("/api/plan", {**panel, "guidance": 3.0}),
        ])  # fmt: skip
