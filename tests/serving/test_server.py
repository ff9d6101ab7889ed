"""The server over loopback with a real client: answers, load, clients that vanish, bad input, a graceful end."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import torch
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from safetensors.torch import load

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.integrations.named_models import NamedModel
from noise_scheduler_sampling_system.serving.http.application import make_application
from noise_scheduler_sampling_system.serving.http.limits import Limits
from noise_scheduler_sampling_system.serving.http.service import Service
from tiny_pipelines import build

SHAPE = (1, 4, 4)
DDIM = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
#: Calls wait while it is not set; labels of 7 raise.
GATE = threading.Event()
GATE.set()


def network(x, t, class_labels=None):
    """A network whose output for a sample does not depend on the rest of the batch."""
    GATE.wait(30)
    if class_labels is not None and (class_labels == 7).any():
        raise KeyError("seven")
    wide = [-1, *[1] * (x.ndim - 1)]
    out = torch.tanh(0.5 * x + (t.to(x.dtype) / 1000).reshape(wide))
    return out if class_labels is None else out + 0.1 * class_labels.to(x.dtype).reshape(wide)


network.null_condition = lambda condition: {"class_labels": torch.zeros_like(condition["class_labels"])}


@contextlib.contextmanager
def served(limits=None, model=None, **options):
    """A server in a thread, and a client of it."""
    service = Service(model or NamedModel("test", network, SHAPE, 10), limits or Limits(batch=8), **options)
    server = uvicorn.Server(uvicorn.Config(make_application(service), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield client, service
    finally:
        GATE.set()
        server.should_exit = True
        thread.join(20)
        service.batcher.close(finish=False)


@pytest.fixture(scope="module")
def running():
    with served() as pair:
        yield pair


@contextlib.contextmanager
def gate_closed():
    GATE.clear()
    try:
        yield
    finally:
        GATE.set()


def post(client, **body):
    return client.post("/v1/samples", json=body)


def events(response):
    """(name, data) of each server-sent event."""
    for block in response.read().decode().strip().split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def alone(steps=5, seed=1, count=1, **more):
    return DDIM.sample(network, (count, *SHAPE), steps, seed=seed, **more)


# --- answers


def test_the_samples_are_those_of_the_library(running):
    client, _ = running
    answer = post(client, steps=5, seed=1, num_samples=3)
    assert answer.status_code == 200
    data = answer.json()
    assert torch.equal(torch.tensor(data["samples"]), alone(count=3))
    assert data["shape"] == [3, *SHAPE]
    assert (data["seed"], data["nfe"], data["sampler"]) == (1, 5, "ddim")
    labels = torch.tensor([2, 2, 5, 5])
    expected = alone(count=4, condition={"class_labels": labels}, guidance_scale=3.0)
    data = post(client, steps=5, seed=1, labels=[2, 5], num_samples=2, guidance_scale=3.0).json()
    assert torch.equal(torch.tensor(data["samples"]), expected)
    later = post(client, steps=5, seed=1, num_samples=1, first_index=2).json()
    assert torch.equal(torch.tensor(later["samples"]), alone(count=3)[2:])


def test_a_drawn_seed_is_returned(running):
    client, _ = running
    data = post(client, steps=3).json()
    assert post(client, steps=3, seed=data["seed"]).json()["samples"] == data["samples"]
    assert post(client, steps=3).json()["samples"] != data["samples"]


def test_samplers_options_and_plans(running):
    client, _ = running
    options = {"eta": 0.5}
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(timestep_spacing="trailing"), "ddim", **options)
    data = post(client, steps=4, seed=3, sampler="ddim", options=options, spacing="trailing").json()
    assert torch.equal(torch.tensor(data["samples"]), pipeline.sample(network, (1, *SHAPE), 4, seed=3))
    plan = DiffusionPipeline(NoiseSchedulerConfig(), "dpmpp_2m").plan(6)
    data = post(client, seed=3, plan=plan.to_dict()).json()
    assert torch.equal(torch.tensor(data["samples"]), DDIM.sample(network, (1, *SHAPE), plan=plan, seed=3))
    assert data["plan"] == plan.fingerprint


def test_formats(running):
    client, _ = running
    picture = post(client, steps=4, seed=1, num_samples=2, format="png")
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-seed"] == "1"
    assert imread(io.BytesIO(picture.content)).ndim == 3
    file = post(client, steps=4, seed=1, num_samples=2, format="safetensors")
    tensors = load(file.content)
    assert torch.equal(tensors["samples"], alone(steps=4, count=2))
    assert tensors["keys"].tolist() == [[1, 0], [1, 1]]


def test_a_stream_has_each_step_and_the_result(running):
    client, _ = running
    got = list(events(post(client, steps=4, seed=1, stream=True, previews=True)))
    assert [name for name, _ in got] == ["queued", *["step"] * 4, "result"]
    steps = [data for name, data in got if name == "step"]
    expected = list(DDIM.stream(network, (1, *SHAPE), 4, seed=1))
    assert [(step["index"], step["t"], step["sigma"], step["nfe"]) for step in steps] == [
        (step.index, step.t, step.sigma, step.nfe) for step in expected
    ]
    assert base64.b64decode(steps[0]["preview"]).startswith(b"\x89PNG")
    assert torch.equal(torch.tensor(got[-1][1]["samples"]), alone(steps=4))
    *_, (name, error) = events(post(client, labels=7, stream=True))
    assert (name, error["status"], error["error"]["category"]) == ("error", 500, "internal")


def test_health_and_metrics(running):
    client, service = running
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json()["status"] == "ready"
    about = client.get("/").json()
    assert about["shape"] == list(SHAPE)
    assert about["limits"]["steps"] == service.limits.steps
    before = service.batcher.metrics()
    post(client, steps=3)
    text = client.get("/metrics").text
    assert f'noise_sampling_requests_total{{end="finished"}} {before.finished + 1:.1f}' in text
    assert f"noise_sampling_model_calls_total {before.calls + 3:.1f}" in text
    schema = client.get("/openapi.json").json()["paths"]["/v1/samples"]["post"]["requestBody"]
    assert "steps" in schema["content"]["application/json"]["schema"]["properties"]


def test_prompts_for_a_pipeline_of_diffusers():
    with served(model=NamedModel("tiny", pipe=build("sd"))) as (client, service), ThreadPoolExecutor(4) as pool:
        requests = [
            {"prompts": text, "steps": steps, "seed": steps} for text, steps in (("ab", 3), ("cd e", 5), ("f", 4))
        ]
        answers = list(pool.map(lambda request: post(client, **request).json(), requests))
        pipeline = DiffusionPipeline.from_diffusers(build("sd"))
        for request, answer in zip(requests, answers, strict=True):
            expected = pipeline.sample(
                num_inference_steps=request["steps"], seed=request["seed"],
                **pipeline.inputs(prompt=[request["prompts"]]),
            )  # fmt: skip
            assert torch.allclose(
                torch.tensor(answer["samples"]), expected, atol=1e-4
            )  # the network sees another batch
        assert post(client, prompts=["ab", "c"], steps=2, format="png").content.startswith(b"\x89PNG")
        assert post(client, labels=3).status_code == 422
        assert post(client, prompts="ab", shape=[4, 8, 8]).status_code == 422
        assert client.get("/").json()["takes_prompts"]
        assert service.batcher.metrics().failed == 0


# --- load, and clients that vanish


def test_clients_under_load_share_calls_and_get_their_own_samples(running):
    client, service = running
    before = service.batcher.metrics()

    def ask(i):
        body = {"steps": 3 + i % 6, "seed": i, "num_samples": 1 + i % 2, "stream": i % 5 == 0}
        answer = post(client, **body)
        return list(events(answer))[-1][1] if body["stream"] else answer.json()

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, range(128)))
    for i, answer in enumerate(answers):
        assert torch.equal(torch.tensor(answer["samples"]), alone(3 + i % 6, i, 1 + i % 2)), i
    after = service.batcher.metrics()
    assert after.finished - before.finished == 128
    assert after.calls - before.calls < sum(3 + i % 6 for i in range(128)) / 2


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_of_a_client_that_vanishes_is_cancelled(running, stream):
    client, service = running
    before = service.batcher.metrics().cancelled
    with gate_closed():
        sockets = [send_and_hold(client, {"steps": 200, "stream": stream}) for _ in range(4)]
        wait_for(lambda: service.batcher.metrics().submitted and unfinished(service) == 4)
        for each in sockets:
            each.close()
        wait_for(lambda: unfinished(service) == 0)
    assert service.batcher.metrics().cancelled == before + 4
    assert post(client, steps=2).status_code == 200


def unfinished(service):
    now = service.batcher.metrics()
    return now.submitted - now.finished - now.cancelled - now.failed - now.expired


def send_and_hold(client, body, cut=None):
    """Send a request over a bare socket; with ``cut`` only the first bytes of the body."""
    data = json.dumps(body).encode()
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    connection.sendall(
        b"POST /v1/samples HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(data) + data[:cut]
    )
    return connection


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 10 s")


# --- refusals


def test_errors_have_the_form_of_the_library_and_the_right_status(running):
    client, _ = running
    cases = [
        (400, "body", b"{"), (400, "body", b"[1]"), (400, "body", b""), (400, "body", b"\xff\xfe"),
        (400, "body", b'{"seed": 1, "seed": 2}'), (400, "body", b"[" * 5000), (400, "body", b"null"),
        (422, "deadline", b'{"deadline": 1e999}'),
        (422, "stepz", b'{"stepz": 3}'), (422, "steps", b'{"steps": 0}'), (422, "steps", b'{"steps": "3"}'),
        (422, "steps", b'{"steps": true}'), (422, "steps", b'{"steps": 251}'),
        (422, "num_samples", b'{"num_samples": 65}'),
        (422, "seed", b'{"seed": -1}'), (422, "seed", b'{"seed": 18446744073709551616}'),
        (422, "sampler", b'{"sampler": "nope"}'), (422, "spacing", b'{"spacing": "nope"}'),
        (422, "labels", b'{"labels": 10}'), (422, "labels", b'{"labels": []}'),
        (422, "prompts", b'{"prompts": "a cat"}'),
        (422, "guidance_scale", b'{"guidance_scale": 3}'), (422, "format", b'{"format": "jpeg"}'),
        (422, "plan", b'{"plan": {"a": 1}}'), (422, "steps", b'{"plan": {}, "steps": 3}'),
        (422, "previews", b'{"previews": true}'), (422, "deadline", b'{"deadline": 0}'),
        (422, "resume", b'{"resume": "../../etc/passwd"}'),
        (422, "resume", b'{"resume": "00000000000000000000000000000000-0"}'),
        (422, "eta", b'{"options": {"eta": -3}}'), (422, "options", b'{"options": {"eta": [1]}}'),
    ]  # fmt: skip
    for status, where, data in cases:
        answer = client.post("/v1/samples", content=data)
        assert answer.status_code == status, data
        error = answer.json()["error"]
        assert where in error["where"], (data, error)
        assert error["what"]
        assert error["suggestion"]
    assert client.get("/v1/samples").status_code == 405
    assert client.get("/nothing").json()["error"]["category"] == "http"
    raised = post(client, labels=7)
    assert (raised.status_code, raised.json()["error"]["what"]) == (500, "the model raised KeyError")


def test_pages_of_other_sites_are_refused(running):
    client, _ = running
    for status, headers in (
        (421, {"host": "evil.example"}), (403, {"origin": "https://evil.example"}), (403, {"origin": "null"}),
    ):  # fmt: skip
        answer = client.post("/v1/samples", json={"steps": 2}, headers=headers)
        assert answer.status_code == status
        assert answer.json()["error"]["category"] == "http"
    own = str(client.base_url).rstrip("/")
    assert client.post("/v1/samples", json={"steps": 2}, headers={"origin": own}).status_code == 200


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(running):
    client, service = running
    big = b" " * (service.limits.body + 1)
    assert client.post("/v1/samples", content=big).status_code == 413
    assert client.post("/v1/samples", content=iter([big[:1000]] * 2000)).status_code == 413  # chunked: no length


def test_a_full_queue_a_late_request_and_a_slow_body():
    limits = Limits(batch=1, queue=1, seconds=20, body_seconds=0.2)
    with served(limits) as (client, service), ThreadPoolExecutor(2) as pool:
        with gate_closed():
            first = pool.submit(post, client, steps=3)
            wait_for(lambda: service.batcher.metrics().running == 1)
            late = pool.submit(post, client, steps=3, deadline=0.05)
            wait_for(lambda: service.batcher.metrics().queued == 1)
            assert client.get("/ready").status_code == 503
            refused = post(client, steps=3)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            assert refused.json()["error"]["category"] == "refused"
            slow = send_and_hold(client, {"steps": 3}, cut=5)
            assert slow.recv(100).startswith(b"HTTP/1.1 408")
            slow.close()
        assert first.result().status_code == 200
        assert late.result().status_code == 504
        service.batcher.close()
        closed = post(client, steps=3)
        assert (closed.status_code, closed.json()["error"]["category"]) == (503, "refused")
        assert client.get("/ready").json()["status"] == "closing"


def test_a_request_that_is_handed_back_goes_on_at_another_server(tmp_path):
    expected = alone(steps=30, seed=4, count=2)
    with served(states=tmp_path) as (client, service), ThreadPoolExecutor(1) as pool:
        with gate_closed():
            asked = pool.submit(post, client, steps=30, seed=4, num_samples=2)
            wait_for(lambda: service.batcher.metrics().running == 1)
            closing = threading.Thread(target=service.batcher.close, kwargs={"finish": False})
            closing.start()
        answer = asked.result()
        closing.join()
    assert answer.status_code == 503
    names = answer.json()["resume"]
    assert names
    with served(states=tmp_path) as (client, _):
        assert post(client, resume=names[0], seed=3).status_code == 422
        parts = [torch.tensor(post(client, resume=name).json()["samples"]) for name in names]
    assert torch.equal(torch.cat(parts), expected)


# --- hostile bodies

VALID = [
    {"steps": 3, "seed": 1},
    {"labels": [1, 2], "guidance_scale": 2.0, "steps": 2},
    {"sampler": "dpmpp_2m", "options": {}, "steps": 3, "format": "png"},
    {"plan": DDIM.plan(2).to_dict(), "seed": 5},
    {"stream": True, "steps": 2},
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def check_answer(answer):
    assert answer.status_code in (200, 400, 413, 422), answer.text[:500]
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"category", "what", "where", "why", "suggestion"}


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_in_any_field_is_an_answer_or_an_error_of_the_library(running, data):
    client, _ = running
    body = dict(data.draw(st.sampled_from(VALID)))
    names = [*body, "num_samples", "spacing", "shape", "priority", "deadline", "resume", "first_index", "x"]
    body[data.draw(st.sampled_from(names))] = data.draw(PLAIN)
    check_answer(client.post("/v1/samples", content=json.dumps(body).encode()))


def test_bytes_that_were_changed_are_an_answer_or_an_error_of_the_library(running):
    client, _ = running
    chance = random.Random(0)
    for _ in range(150):
        data = bytearray(json.dumps(chance.choice(VALID)).encode())
        for _ in range(chance.randrange(1, 4)):
            place, kind = chance.randrange(len(data)), chance.randrange(3)
            if kind == 0:
                data[place] = chance.randrange(256)
            elif kind == 1:
                del data[place : place + chance.randrange(1, 9)]
            else:
                data[place:place] = bytes(chance.choice([b'"', b"{", b"1e308", b"\\u0000", b"-", b"[[", b"NaN"]))
            data = data or bytearray(b"0")
        check_answer(client.post("/v1/samples", content=bytes(data)))


# --- the process


def test_sigterm_finishes_short_requests_and_hands_back_long_ones(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time, torch\n"
        "def network(x, t):\n"
        "    time.sleep(0.02)\n"
        "    return torch.tanh(x)\n"
        "network.shape = (1, 4, 4)\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "noise_scheduler_sampling_system", "serve", "--model", "slow:network",
               "--port", str(port), "--grace", "1", "--states", str(tmp_path / "states")]  # fmt: skip
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            wait_until_served(client, process)
            with ThreadPoolExecutor(2) as pool:
                short, long = (pool.submit(post, client, steps=steps, seed=1) for steps in (20, 250))
                wait_for(lambda: "noise_sampling_running_requests 2.0" in client.get("/metrics").text)
                process.send_signal(signal.SIGTERM)
                assert short.result().status_code == 200
                assert long.result().status_code == 503
                assert len(long.result().json()["resume"]) == 1
        assert process.wait(30) == 0
        assert len(list((tmp_path / "states").iterdir())) == 1
    finally:
        process.kill()


def wait_until_served(client, process):
    for _ in range(600):
        assert process.poll() is None, process.stderr.read()
        with contextlib.suppress(httpx.TransportError):
            if client.get("/ready").status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not start within 30 s")
