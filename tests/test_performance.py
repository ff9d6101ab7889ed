"""The structure of a run, not its seconds: operations, host reads, allocations, memory, and calls a step."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from noise_scheduler_sampling_system import DiffusionPipeline, NoiseSchedulerConfig
from noise_scheduler_sampling_system.running.bound_plan import bind_for
from noise_scheduler_sampling_system.running.loop import RowState, run_rows
from operations import HOST_READS, Count

STEPS = 12
SMALL, LARGE = (1, 4, 32, 32), (2, 4, 128, 128)


def counted(method, shape, clip=False, **options):
    """The operations of a whole run of a plan, and the plan."""
    config = NoiseSchedulerConfig(clip_sample=clip)
    plan = DiffusionPipeline(config, method, **options).plan(STEPS)
    bound = bind_for(plan, config)
    x, noise, *outputs = (torch.randn(shape) for _ in range(10))
    with torch.no_grad(), Count() as count:
        for _ in run_rows(bound, lambda x, row: outputs[row % 8], RowState(0, x, {}), lambda step, stage: noise):
            pass
    return count, plan


# full-size operations a model call: terms of the row, and for the history its making
@pytest.mark.parametrize(
    ("method", "options", "small", "large"),
    [
        ("ddim", {}, 2, 1), ("euler", {}, 2, 1), ("heun", {}, 2, 1.5), ("pndm", {}, 5, 4), ("ddpm", {}, 3, 2),
        ("ancestral", {}, 3, 2),
    ],
)  # fmt: skip
def test_full_size_operations_a_step(method, options, small, large):
    for shape, most in ((SMALL, small), (LARGE, large)):
        count, plan = counted(method, shape, **options)
        full = sum(n >= torch.Size(shape).numel() for n in count.largest)
        at_the_end = 2  # a sum over the result, and over the state before the step that drops it
        assert full <= most * plan.nfe + at_the_end, count.names


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm", "ancestral"])
@pytest.mark.parametrize("clip", [False, True])
def test_one_host_read_in_a_whole_run(method, clip):
    count, _ = counted(method, LARGE, clip)
    assert sum(name in HOST_READS for name in count.names) == 1
    assert count.names[-1] in HOST_READS  # and it is the last thing that happens


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm"])
def test_no_scalar_tensor_work(method):
    count, plan = counted(method, LARGE)
    scalars = [n for n, size in zip(count.names, count.largest, strict=True) if size <= 1]
    assert len(scalars) <= 10, scalars  # reading the sums at the end; nothing that grows with the steps
    assert len(scalars) < plan.nfe or plan.nfe <= 10


class Allocations(TorchDispatchMode):
    """Counts new full-size storages."""

    def __init__(self, *known):
        super().__init__()
        self.size, self.made = known[0].numel(), 0
        self.alive = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() >= self.size:
                storage = tensor.untyped_storage()
                key = storage.data_ptr()
                if key not in self.alive:
                    self.made += 1
                    self.alive.add(key)
                    weakref.finalize(storage, self.alive.discard, key)
        return result


@pytest.mark.parametrize(("method", "kept"), [("ddim", 0), ("euler", 0), ("heun", 0.5), ("pndm", 0), ("ddpm", 0)])
def test_allocations_a_step(method, kept):
    """One new tensor a model call: the next state. Conversions for the history come on top where needed."""
    config = NoiseSchedulerConfig()
    plan = DiffusionPipeline(config, method).plan(STEPS)
    x, noise, *outputs = (torch.randn(LARGE) for _ in range(10))
    with torch.no_grad(), Allocations(x, noise, *outputs) as memory:
        for _ in run_rows(
            bind_for(plan, config), lambda x, row: outputs[row % 8], RowState(0, x, {}), lambda step, stage: noise
        ):
            pass
    assert memory.made <= (1 + kept) * plan.nfe


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm"])
def test_nothing_outlives_its_use(method):
    """During each model call only the state and the live history exist."""
    config = NoiseSchedulerConfig()
    pipeline = DiffusionPipeline(config, method)
    plan = pipeline.plan(STEPS)
    born: list[weakref.ref] = []
    most = 0

    def model(x, t):
        nonlocal most
        gc.collect()
        most = max(most, sum(r() is not None for r in born))
        output = torch.randn_like(x)
        born.append(weakref.ref(output))
        return output

    pipeline.sample(model, LARGE, STEPS, seed=0)
    assert most <= plan.history


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("method", "options"),
    [("ddim", {}), ("ddpm", {}), ("heun", {}), ("pndm", {}), ("pndm", {"skip_prk_steps": False})],
)
def test_peak_memory_of_a_run(method, options, clip):
    """History + 3 sample tensors: the state, the model's output, the next state (PyTorch's own record)."""
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(clip_sample=clip), method, **options)
    noise = torch.randn(LARGE)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        pipeline.sample(lambda x, t: torch.sin(x), num_inference_steps=STEPS, initial_noise=noise)
    now = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    unit = noise.numel() * noise.element_size()
    assert peak > unit
    assert peak <= (pipeline.plan(STEPS).history + 3) * unit * 1.02


@pytest.mark.parametrize("method", ["ddim", "heun", "pndm", "ddpm", "ancestral"])
def test_the_network_is_called_as_often_as_the_plan_says(method):
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
    for options, batch in (({}, 2), ({"condition": {"c": torch.zeros(2, 3)}, "guidance_scale": 3.0}, 4)):
        sizes = []
        pipeline.sample(lambda x, t, c=None, sizes=sizes: sizes.append(len(x)) or x, (2, 4), STEPS, **options)
        assert sizes == [batch] * pipeline.plan(STEPS).nfe


def test_plans_are_made_once():
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), "ddim")
    assert pipeline.plan(20) is pipeline.plan(20)
    before = pipeline.plan(20)
    pipeline.update_config(beta_end=0.03)
    assert pipeline.plan(20) != before


def test_import_is_light():
    """Nothing heavy beyond torch, numpy, pydantic, yaml and tqdm is imported with the package."""
    code = (
        "import sys, torch, numpy, pydantic, yaml, tqdm.auto, inspect, resource\n"
        "before = set(sys.modules)\n"
        "import noise_scheduler_sampling_system\n"
        "new = {m.split('.')[0] for m in set(sys.modules) - before if not m.startswith('_sysconfig')}\n"
        "print(sorted(n for n in new if n not in sys.stdlib_module_names and n != 'noise_scheduler_sampling_system'))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = {
        "torch",
        "numpy",
        "pydantic",
        "pydantic_core",
        "yaml",
        "_yaml",
        "tqdm",
        "annotated_types",
        "typing_inspection",
    }
    assert set(eval(result.stdout)) <= allowed, result.stdout


def test_a_call_does_not_walk_all_weights():
    """A network of diffusers has thousands of modules: a walk takes milliseconds, several times a call."""
    network = torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(500)).eval()
    walked = []
    named = network.named_parameters

    def counting(*arguments, **options):
        for each in named(*arguments, **options):
            walked.append(each)
            yield each

    network.named_parameters = counting
    network.forward = lambda x, t: x * 0.1
    DiffusionPipeline().sample(network, (1, 1, 8, 8), 2, seed=0)
    assert 0 < len(walked) < 50


def calls_beyond_steps(sample):
    """The Python functions that a call of ``sample`` enters beyond those of its steps, once it was called before."""

    def counted(steps):
        made = 0

        def count(frame, event, argument):
            nonlocal made
            made += event == "call"

        sample(steps)
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            sample(steps)
        finally:
            sys.setprofile(before)
        return made

    return counted(10) - (counted(20) - counted(10))


class Large(torch.nn.Module):
    """A network of 600 modules, with weights in the first of them."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(1, 1)
        self.others = torch.nn.ModuleList(torch.nn.Identity() for _ in range(600))

    def forward(self, x, t, c=None):
        return x


GIVEN = {"c": torch.zeros(1, 3)}
PLANS = {steps: DiffusionPipeline().plan(steps) for steps in (10, 20)}


@pytest.mark.parametrize(
    ("model", "options", "most", "operations"),
    [
        # the sum and the read of the check twice, the drawn seed and its read, a copy of the noise, the times
        (lambda x, t: x, {"initial_noise": torch.zeros(1, 2)}, 125, 8),
        # the noise, the times, the sum and the read of the final check
        (lambda x, t: x, {"shape": (1, 2), "seed": 3}, 138, 4),
        (lambda x, t: x, {"shape": (1, 2), "seed": 3, "plan": PLANS}, 141, 4),
        # zeros for the null condition, and both conditions as one
        (lambda x, t, c: x, {"shape": (1, 2), "seed": 3, "guidance_scale": 3.0, "condition": GIVEN}, 180, 6),
        (Large().eval(), {"shape": (1, 2), "seed": 3}, 166, 4),
    ],
    ids=["noise", "seed", "plan", "guided", "large"],
)  # fmt: skip
def test_an_equal_call_prepares_nothing_again(model, options, most, operations):
    """Beyond its steps a call enters few functions: what its arguments alone decide was prepared by the first one."""
    pipeline = DiffusionPipeline()

    def sample(steps):
        given = {**options, "plan": PLANS[steps]} if "plan" in options else options
        pipeline.sample(model, num_inference_steps=steps, **given)

    def dispatched(steps):
        with Count() as count:
            sample(steps)
        return len(count.names)

    assert 0 < calls_beyond_steps(sample) <= most
    assert dispatched(10) - (dispatched(20) - dispatched(10)) == operations
