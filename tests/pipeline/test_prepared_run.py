"""A run is prepared once for equal requests: the same samples, the same errors, and nothing is kept alive."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, ModelOutputError
from noise_scheduler_sampling_system.guidance import ClassifierFree
from noise_scheduler_sampling_system.pipeline.finite_samples import job_of
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys

SHAPE, STEPS = (3, 2, 4, 4), 4


class Network(nn.Module):
    """A network with weights, which changes its time in-place where PyTorch allows it: for one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, t, label=None):
        if len(t) == 1:
            t.mul_(2)
        shift = 0.0 if label is None else label.view(-1, 1, 1, 1)
        return self.layer(x).tanh() + 1e-3 * t.to(x.dtype).view(-1, 1, 1, 1) + shift


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Network().eval()


def label(batch=3):
    return {"label": torch.arange(1.0, batch + 1)}


REQUESTS = {
    "seed": {},
    "noise": {"initial_noise": torch.full(SHAPE, 0.3), "shape": None},
    "image": {"initial_sample": torch.full(SHAPE, 0.3), "strength": 0.5},
    "condition": {"condition": label(), "guidance_scale": 3.0},
    "guidance": {"condition": label(), "guidance": ClassifierFree(3.0)},
    "plan": {"plan": DiffusionPipeline(None, "heun").plan(STEPS)},
    "grid": {"grid": DiffusionPipeline(None, "heun").grid(STEPS)},
    "one sample": {"shape": (1, *SHAPE[1:])},
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_an_equal_request_finds_its_run_and_gives_the_samples_of_a_new_pipeline(kind, network):
    arguments = {"shape": SHAPE, "num_inference_steps": STEPS, **REQUESTS[kind]}
    pipeline = DiffusionPipeline(None, "heun")
    first = pipeline.sample(network, seed=1, **arguments)
    second = pipeline.sample(network, seed=2, **arguments)
    again = pipeline.sample(network, seed=1, **arguments)
    assert torch.equal(first, again)
    assert torch.equal(second, DiffusionPipeline(None, "heun").sample(network, seed=2, **arguments))
    runs = [job_of(pipeline, model=network, seed=seed, **arguments).run for seed in (1, 2)]
    assert runs[0] is runs[1]


def test_what_the_model_has_become_counts(network):
    pipeline = DiffusionPipeline()
    plain = pipeline.sample(network, SHAPE, STEPS, seed=0)
    assert plain.dtype == torch.float32
    network.double()
    assert pipeline.sample(network, SHAPE, STEPS, seed=0).dtype == torch.float64
    network.float()
    assert torch.equal(pipeline.sample(network, SHAPE, STEPS, seed=0), plain)

    network.layer.weight = nn.Parameter(torch.zeros(4, 4))
    assert not torch.equal(pipeline.sample(network, SHAPE, STEPS, seed=0), plain)
    hook = network.register_forward_hook(lambda module, inputs, output: output * 0.0)
    assert torch.equal(
        pipeline.sample(network, SHAPE, STEPS, seed=0),
        pipeline.sample(lambda x, t: torch.zeros_like(x), SHAPE, STEPS, seed=0),
    )
    hook.remove()

    network.prediction_type = "v_prediction"
    with pytest.raises(ConfigurationError, match="predicts 'v_prediction'"):
        pipeline.sample(network, SHAPE, STEPS, seed=0)
    del network.prediction_type
    network.forward = lambda x: x
    with pytest.raises(ConfigurationError, match="cannot be called"):
        pipeline.sample(network, SHAPE, STEPS, seed=0)
    network.forward = lambda x, t: x[:1]
    with pytest.raises(ModelOutputError):
        pipeline.sample(network, SHAPE, STEPS, seed=0)


def test_what_a_function_has_become_counts():
    """A reload (IPython's autoreload) replaces the code of a function that programs hold."""

    def model(x, t):
        return x * 0.1

    def edited(x, t, *, label=0.0):
        return x * 0.1 + label

    def strict(x, t, *, label):
        return x * 0.1 + label

    pipeline = DiffusionPipeline()
    plain = pipeline.sample(model, SHAPE, STEPS, seed=0)
    model.__code__, model.__kwdefaults__ = edited.__code__, edited.__kwdefaults__
    assert torch.equal(pipeline.sample(model, SHAPE, STEPS, seed=0), plain)
    options = {"condition": {"label": 0.5}, "classifier_free_guidance": False}
    assert not torch.equal(pipeline.sample(model, SHAPE, STEPS, seed=0, **options), plain)
    model.__kwdefaults__ = None
    with pytest.raises(ConfigurationError, match="label"):
        pipeline.sample(model, SHAPE, STEPS, seed=0)
    model.__code__ = strict.__code__
    pipeline.sample(model, SHAPE, STEPS, seed=0, **options)


def test_an_update_of_the_pipeline_counts(network):
    pipeline = DiffusionPipeline()
    before = pipeline.sample(network, SHAPE, STEPS, seed=0)
    pipeline.update_config(beta_end=0.03)
    after = pipeline.sample(network, SHAPE, STEPS, seed=0)
    assert not torch.equal(before, after)
    pipeline.update_config(beta_end=0.02)
    assert torch.equal(pipeline.sample(network, SHAPE, STEPS, seed=0), before)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"initial_noise": torch.full(SHAPE, torch.nan)}, "initial_noise"),
        ({"initial_noise": torch.zeros(3, 2, 4, 5)}, "initial_noise"),
        ({"condition": {"label": torch.zeros(2)}}, "condition"),
        ({"condition": {"labels": torch.zeros(3)}}, "condition['labels']"),
        ({"condition": {"label": torch.zeros(3)}, "null_condition": {"other": 1}}, "null_condition['other']"),
        ({"null_condition": {"label": torch.zeros(3)}}, "null_condition"),
        ({"guidance_scale": 3.0}, "guidance_scale"),
        ({"num_inference_steps": float(STEPS)}, "num_inference_steps"),
        ({"num_inference_steps": [STEPS]}, "num_inference_steps"),
        ({"shape": (True, 2, 4, 4)}, "shape"),
        ({"dtype": [torch.float32]}, "dtype"),
        ({"seed": -1}, "seed"),
        ({"seed": [1, 2]}, "seed"),
        ({"plan": 3}, "plan"),
        ({"grid": 3}, "grid"),
        ({"strength": True}, "strength"),
        ({"context": torch.zeros(1)}, "context"),
    ],
)
def test_mistakes_are_found_in_every_call(wrong, where, network):
    """A request that is right, then one that differs from it in the mistake, then the first one again."""
    pipeline, calls = DiffusionPipeline(), []

    def model(x, t, label=None):
        calls.append(x)
        return network(x, t, label)

    right = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 0}
    first = pipeline.sample(model, **right)
    pipeline.sample(model, **right, initial_noise=torch.zeros(SHAPE))
    pipeline.sample(model, **right, condition=label())
    del calls[:]
    for _ in range(2):
        with pytest.raises(ConfigurationError) as raised:
            pipeline.sample(model, **{**right, **wrong})
        assert raised.value.where == where
        assert raised.value.__cause__ is raised.value.__context__ is None or raised.value.__suppress_context__
    assert not calls
    assert torch.equal(pipeline.sample(model, **right), first)


def test_guidance_of_the_user_is_asked_in_every_call(network):
    scale = [1.0]
    guidance = ClassifierFree(lambda moment: scale[0])
    pipeline = DiffusionPipeline()

    def samples():
        return pipeline.sample(network, SHAPE, STEPS, condition=label(), guidance=guidance, seed=0)

    before = samples()
    scale[0] = 4.0
    assert torch.equal(samples(), pipeline.sample(network, SHAPE, STEPS, 4.0, condition=label(), seed=0))
    assert not torch.equal(samples(), before)


def test_nothing_of_a_call_is_kept_alive():
    pipeline = DiffusionPipeline()
    model, noise, condition = Network().eval(), torch.zeros(SHAPE), label()
    pipeline.sample(model, num_inference_steps=STEPS, initial_noise=noise, condition=condition)
    held = [weakref.ref(each) for each in (model, model.layer.weight, noise, condition["label"])]
    del model, noise, condition
    gc.collect()
    assert [each() for each in held] == [None] * 4


def test_a_prepared_run_is_not_part_of_a_copy_or_a_pickle(network):
    pipeline = DiffusionPipeline()
    before = len(pickle.dumps(pipeline))
    samples = pipeline.sample(network, SHAPE, STEPS, seed=0)
    assert len(pickle.dumps(pipeline)) == before
    for other in (pickle.loads(pickle.dumps(pipeline)), copy.deepcopy(pipeline), copy.copy(pipeline)):
        assert other == pipeline
        assert torch.equal(other.sample(network, SHAPE, STEPS, seed=0), samples)


def test_threads_share_prepared_runs():
    pipeline, model = DiffusionPipeline(None, "ddpm"), Network().eval()
    wanted = {
        (steps, seed): DiffusionPipeline(None, "ddpm").sample(model, SHAPE, steps, seed=seed)
        for steps in (3, 4, 5)
        for seed in range(4)
    }
    wrong, barrier = [], threading.Barrier(4)

    def work(seed):
        barrier.wait()
        for _ in range(8):
            for steps in (3, 4, 5):
                with torch.no_grad():
                    if not torch.equal(pipeline.sample(model, SHAPE, steps, seed=seed), wanted[steps, seed]):
                        wrong.append((steps, seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_generator_of_a_thread_is_that_of_its_key():
    """Noises of other keys in between, and in other threads, do not change a noise."""
    source = NoiseSource(resolve_keys(5, None, 2), (3,))
    wanted = source(2, 1)
    NoiseSource(resolve_keys(6, None, 1), (7001,))(3, 0)
    assert torch.equal(source(2, 1), wanted)
    drawn = []
    thread = threading.Thread(target=lambda: drawn.append(source(2, 1)))
    thread.start()
    thread.join()
    assert torch.equal(drawn[0], wanted)
