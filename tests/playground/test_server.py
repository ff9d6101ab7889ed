"""The live server, by a real uvicorn over loopback: what it answers, what it refuses, and the page that it serves."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import torch
import uvicorn

from browser import chromium, watched
from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.playground import make_app
from noise_scheduler_sampling_system.playground.bounds import MOST_BYTES
from noise_scheduler_sampling_system.playground.request import MOST_STEPS
from noise_scheduler_sampling_system.playground.server import serve

MODELS = """
import threading, torch
class Half:
    shape, num_classes = (1, 8, 8), 10
    calls = 0
    def __call__(self, x, t, class_labels=None):
        Half.calls += 1
        return 0.5 * x
half = Half()
class Slow(Half):
    def __call__(self, x, t, class_labels=None):
        import time
        time.sleep(0.1)
        return super().__call__(x, t)
slow = Slow()
def fails(x, t, **c): raise RuntimeError("a fault of its own")
fails.shape = (1, 8, 8)
def wide(x, t, **c): return torch.cat([x, x])
wide.shape = (1, 8, 8)
"""
PANEL: dict[str, Any] = {
    "path": "linear", "grid": "kl_optimal", "sampler": "dpmpp_2m", "steps": 5, "path_options": {}, "grid_options": {},
    "options": {}, "levels": None, "guidance": 1.0,
}  # fmt: skip
RUN = {**PANEL, "seed": 0, "digits": "each"}


class Server:
    """A server in a thread, and a client of it."""

    def __init__(self, model: str, hosts: Sequence[str]) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        config = uvicorn.Config(make_app(model, hosts=hosts), log_level="error", timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        assert not self.thread.is_alive()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if body is not None else {}
        with suppress(ConnectionError):  # a server that refuses a body closes the connection before it has read it
            connection.request(method, path, data, {**kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, text

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        status, _, text = self.ask("POST", f"/api/{path}", body, **headers)
        lines = [json.loads(line) for line in text.splitlines()]
        return status, lines[0] if len(lines) == 1 else lines


@contextmanager
def running(model: str = "digits", hosts: Sequence[str] = ()) -> Iterator[Server]:
    server = Server(model, hosts)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "playground_models.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def digits() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def half(models: None) -> Iterator[Server]:
    with running("playground_models:half") as server:
        yield server


def message(told: Any) -> str:
    return told["error"]["message"]


# ------------------------------------------------------------------------------------------------------- answers


def test_it_serves_the_page_and_nothing_else(digits):
    for path, kind in (
        ("/", "html"),
        ("/page.css", "css"),
        ("/playground.js", "javascript"),
        ("/data/digits.js", "javascript"),
    ):
        status, headers, text = digits.ask("GET", path)
        assert (status, kind in headers["content-type"], len(text) > 100) == (200, True, True)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    for path in (
        "/docs",
        "/openapi.json",
        "/data/../server.py",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/pyproject.toml",
        "//etc/passwd",
        "/api/plan",
    ):
        assert digits.ask("GET", path)[0] in (404, 405), path


def test_the_catalog_lists_every_sampler_that_has_a_plan(digits):
    text = digits.ask("GET", "/data/catalog.js")[2]
    catalog = json.loads(text.split('["catalog"] = ')[1].rstrip(";\n"))
    samplers = {each["name"]: each for each in catalog["samplers"]}
    assert {"ddim", "unipc", "er_sde", "runge_kutta"} <= set(samplers)
    assert "adaptive" not in samplers, "its steps depend on the model"
    assert {"linear", "flow", "edm", "sub_vp"} <= {each["name"] for each in catalog["paths"]}
    eta = next(each for each in samplers["ddim"]["options"] if each["name"] == "eta")
    assert (eta["kind"], eta["default"], eta["low"], eta["high"]) == ("number", 0.0, 0.0, 100.0)


def test_a_plan_is_compiled_with_every_option(digits):
    status, told = digits.post("plan", {
        **PANEL, "path": "flow", "path_options": {"shift": 3.0}, "grid": "karras", "grid_options": {"rho": 5.0},
        "sampler": "unipc", "options": {"order": 2, "guarded": False}, "steps": 9,
    })  # fmt: skip
    config = NoiseSchedulerConfig(
        beta_schedule="flow", schedule_options={"shift": 3.0}, timestep_spacing="karras", spacing_options={"rho": 5.0}
    )
    assert status == 200
    assert told["kind"] == "straight"
    assert told["plan"]["hash"] == DiffusionPipeline(config, "unipc", order=2, guarded=False).plan(9).fingerprint


def test_a_plan_is_compiled_on_levels_that_were_moved(digits):
    levels = [None, -3.0, 0.5, 4.0]
    status, told = digits.post("plan", {**PANEL, "sampler": "deis", "steps": 4, "levels": levels})
    assert (status, told["plan"]["rows"]) == (200, 4)
    assert digits.post("plan", {**PANEL, "sampler": "deis", "steps": 4})[1]["plan"]["hash"] != told["plan"]["hash"]


def test_noise_is_the_keyed_noise_of_the_library(digits):
    from base64 import b64decode

    from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

    status, told = digits.post("noise", {"seed": 12345, "keys": [[0, 0], [3, 1]]})
    assert (status, told["keys"]) == (200, [[-1, 0], [0, 0], [3, 1]])
    found = np.frombuffer(b64decode(told["values"]), "<f4").reshape(3, 10, 1, 8, 8)
    source = NoiseSource(resolve_keys(12345, None, 10), (1, 8, 8))
    assert np.array_equal(found, torch.stack([source.initial(), source(0, 0), source(3, 1)]).numpy())


def test_a_run_is_streamed_step_by_step(half):
    status, frames = half.post("run", {**RUN, "sampler": "heun", "steps": 3})
    assert status == 200
    assert [frame["calls"] for frame in frames] == [0, 2, 4, 5]
    assert (frames[0]["clean"], frames[-1]["shape"], frames[-1]["count"]) == (None, [1, 8, 8], 6)
    status, told = half.post("solution", RUN)
    assert (status, told["calls"]) == (200, 60)
    assert 0.0 < told["error"] < 1.0


# -------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"steps": MOST_STEPS + 1}, f"whole number from 1 to {MOST_STEPS}"),
        ({"steps": 2.5}, "steps: got 2.5"),
        ({"steps": True}, "steps: got True"),
        ({"sampler": "dpmp_2m"}, "dpmpp_2m"),
        ({"sampler": "adaptive"}, "not known before the run"),
        ({"sampler": 5}, "sampler: got 5"),
        ({"path": "../../etc/passwd"}, "noise schedule"),
        ({"grid": "nothing"}, "timestep"),
        ({"options": {"order": 99}}, "order"),
        ({"options": {"no": 1}}, "no option"),
        ({"options": [1]}, "options: got [1]"),
        ({"options": {"order": [[[]]]}}, "order"),
        ({"path_options": {"shift": 3.0}}, "shift"),
        ({"guidance": -1}, "guidance: got -1"),
        ({"guidance": "x"}, "guidance: got 'x'"),
        ({"levels": [1, 2]}, "log-SNR of 5 levels"),
        ({"levels": [None, 5, 4, 3, 2]}, "not in order"),
        ({"levels": [None, 1, 2, 3, 4000]}, "log-SNR 4000 is not on the path"),
        ({"levels": [1, None, 2, 3, 4]}, "levels"),
        ({"levels": [5, 6, 7, 8, 9]}, "pure noise"),
        ({"more": 1}, "unknown fields: more"),
    ],
)
def test_a_wrong_setting_is_an_error_of_the_library_as_json(digits, change, told):
    status, answer = digits.post("plan", {**PANEL, **change})
    assert status == 422
    assert told in message(answer)
    assert answer["error"]["category"] in ("configuration", "numerics")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"seed": NaN}', b"[" * 5000, b"\xff\xfe"])
def test_a_body_that_is_no_request_is_told(digits, body):
    status, answer = digits.post("plan", body)
    assert status == 422
    assert "request" in message(answer)


def test_limits_of_noise_and_of_classes(digits, half):
    assert "keys" in message(digits.post("noise", {"seed": 0, "keys": [[0, 0]] * 5000})[1])
    assert "keys" in message(digits.post("noise", {"seed": 0, "keys": [[0, -1]]})[1])
    assert "seed" in message(digits.post("noise", {"seed": -1, "keys": []})[1])
    assert "classes 0 to 9" in message(half.post("run", {**RUN, "digits": "11"})[1])
    assert "digits" in message(half.post("run", {**RUN, "digits": "../x"})[1])


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "[::2]", "127.0.0.1@evil"]
)
def test_a_host_that_is_not_this_machine_is_refused(digits, host):
    status, _, text = digits.ask("GET", "/", Host=host)
    assert status == 421
    assert "not this server" in text


def test_a_page_of_another_site_is_refused(digits):
    assert digits.post("plan", PANEL, Origin="https://evil.example")[0] == 403
    assert digits.post("plan", PANEL, Origin="null")[0] == 403
    assert digits.post("plan", PANEL, Origin=digits.address[:-1])[0] == 200
    assert (
        digits.post("plan", PANEL, Origin=f"http://localhost:{digits.port}", Host=f"LOCALHOST:{digits.port}")[0] == 200
    )
    assert digits.post("plan", PANEL, Content_Type="text/plain")[0] == 415
    assert digits.ask("PUT", "/api/plan", PANEL)[0] == 405
    assert digits.ask("OPTIONS", "/api/plan", None, Origin="https://evil.example")[0] == 403


def test_other_hosts_are_allowed_by_name():
    with running(hosts=["Lab.example", "::2"]) as server:
        for host in ("lab.example", "lab.example:80", "[::2]:8321", "localhost"):
            assert server.ask("GET", "/", Host=host)[0] == 200
        assert server.ask("GET", "/", Host="other.example")[0] == 421


def test_a_body_that_is_too_large_is_refused_unread(digits):
    assert digits.post("plan", b"[" + b"1," * MOST_BYTES + b"1]")[0] == 413
    connection = http.client.HTTPConnection("127.0.0.1", digits.port, timeout=10)
    parts = (b"1," * 1000 for _ in range(2 * MOST_BYTES // 2000))
    with suppress(ConnectionError):
        connection.request("POST", "/api/plan", parts, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize(
    ("name", "told"), [("fails", "the model raised RuntimeError: a fault of its own"), ("wide", "shape")]
)
def test_a_model_that_fails_is_told_and_the_server_goes_on(models, name, told):
    with running(f"playground_models:{name}") as server:
        for _ in range(2):
            _, answer = server.post("run", RUN)
            answer = answer[-1] if isinstance(answer, list) else answer
            assert told in message(answer)
        assert server.post("plan", PANEL)[0] == 200


def test_a_run_ends_when_its_reader_leaves_and_two_runs_take_turns(models):
    import playground_models

    with running("playground_models:slow") as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        connection.request("POST", "/api/run", json.dumps({**RUN, "steps": 100}), {"Content-Type": "application/json"})
        connection.getresponse().read(1000)
        connection.close()
        began = time.monotonic()
        status, frames = server.post("run", {**RUN, "steps": 2})
        assert (status, frames[-1]["calls"]) == (200, 2)
        assert time.monotonic() - began < 5.0, "the first run would have taken 10 s"
        calls = playground_models.Half.calls
        time.sleep(0.4)
        assert playground_models.Half.calls == calls


# ------------------------------------------------------------------------------------------------------ the process


def test_an_address_that_is_taken_is_told_before_anything_is_served():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match="cannot be used"):
            serve(port=taken.getsockname()[1], started=lambda address: pytest.fail("it says that it started"))
    with pytest.raises(ConfigurationError, match=r"give digits, mnist, module:attribute"):
        serve("nothing")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_its_address_answers_and_stops(stop):
    command = [sys.executable, "-m", "noise_scheduler_sampling_system", "playground", "--port", "0", "--json"]
    found = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=found)
    try:
        assert process.stdout is not None
        lines = "".join(process.stdout.readline() for _ in range(3))
        port = int(re.search(r":(\d+)/", lines)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(stop)
        process.wait(20)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()


# --------------------------------------------------------------------------------------------------- the live page

SETTLED = """() => [...document.querySelectorAll('.panel:not([hidden])')].every(panel =>
  panel.classList.contains('failed')
  || (!panel.hasAttribute('aria-busy') && /error [0-9.]/.test(panel.querySelector('.score').textContent)))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_the_live_page_compiles_any_plan(browser, digits):
    page = browser.new_page()
    faults = watched(page, digits.address)
    page.goto(f"{digits.address}#a.sampler=runge_kutta&a.steps=3&seed=77")
    page.wait_for_function(SETTLED)
    assert page.is_hidden("#problems")
    page.select_option("#b-sampler", "dpmpp_sde")
    page.wait_for_timeout(50)
    page.wait_for_function(SETTLED)
    page.select_option("#b-sampler", "deis")
    page.click("#panel-b summary:has-text('Options of the sampler')")
    page.fill("#b-options-order", "2")
    page.wait_for_timeout(50)
    page.wait_for_function(SETTLED)
    assert "b.option.order=2" in page.evaluate("location.hash")
    before = page.inner_text("#panel-b .spread")
    page.locator("#panel-b .level.moves").nth(6).focus()
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(50)
    page.wait_for_function(SETTLED)
    assert page.inner_text("#panel-b .spread") != before
    assert page.locator(".alert:visible").count() == 0
    assert faults == []
    page.close()


def test_the_live_page_runs_a_model_of_the_server(browser, half):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    faults = watched(page, half.address)
    page.goto(f"{half.address}#a.steps=3&b.steps=4&b.sampler=heun")
    page.wait_for_function(SETTLED)
    assert page.inner_text("#panel-b .score").startswith("NFE 7 ·")
    assert "A run of 60 calls" in page.inner_text("#panel-a")
    page.click("#back")
    assert "so far" in page.inner_text("#panel-b .score")
    page.select_option("#digits", "any")
    page.wait_for_timeout(50)
    page.wait_for_function(SETTLED)
    assert faults == []
    page.close()


def test_the_live_page_tells_what_a_model_raised_and_that_a_server_is_gone(browser, models):
    with running("playground_models:fails") as server:
        page = browser.new_page()
        page.goto(server.address)
        page.wait_for_selector("#panel-a .alert:visible")
        assert "a fault of its own" in page.inner_text("#panel-a .alert")
    page.select_option("#a-sampler", "heun")
    page.wait_for_function("() => document.querySelector('#panel-a .alert').textContent.includes('still running')")
    page.close()
