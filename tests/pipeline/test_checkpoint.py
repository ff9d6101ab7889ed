"""``sample(..., checkpoint=...)``: a call that failed goes on, bit for bit, and loses at most ``every`` steps."""

import os
import sys
from dataclasses import replace

import pytest
import torch

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, SamplingPlan
from noise_scheduler_sampling_system.guidance import AdaptiveProjected, ClassifierFree
from noise_scheduler_sampling_system.support import FileError, ModelOutputError

SHAPE, STEPS = (6, 1, 8, 8), 12
LABELS = {"class_labels": torch.arange(6)}


class Fails:
    """The digits; call number ``at`` raises, and the calls are counted."""

    fingerprint = "digits that fail"

    def __init__(self, pipeline, at=None, error=ValueError):
        from noise_scheduler_sampling_system.models import DigitsModel

        self._model, self._at, self._error, self.calls = DigitsModel(pipeline.scheduler), at, error, 0

    def __call__(self, x, t, **condition):
        self.calls += 1
        if self.calls == self._at:
            raise self._error("the machine broke")
        return self._model(x, t, **condition)

    def null_condition(self, condition):
        return self._model.null_condition(condition)


CASES = [
    ("ddim", {}), ("dpmpp_2m", {}), ("dpmpp_2m_sde", {}), ("heun", {}), ("ancestral", {"noise": "brownian"}),
    ("unipc", {"condition": LABELS}),
    ("ddim", {"condition": LABELS, "guidance": [AdaptiveProjected(3.0, momentum=-0.5)]}),
    ("sa_solver", {"condition": LABELS, "guidance_scale": 2.0}),
]  # fmt: skip


@pytest.mark.parametrize("size", [None, 4, 1])
@pytest.mark.parametrize(("method", "more"), CASES)
def test_a_call_that_failed_goes_on_bit_for_bit(tmp_path, method, more, size):
    pipeline, file = DiffusionPipeline(None, method), tmp_path / "run.safetensors"
    asked = {"num_inference_steps": STEPS, "seed": 4, "max_batch_size": size, **more}
    whole = pipeline.sample(Fails(pipeline), SHAPE, **asked)
    calls = pipeline.plan(STEPS).nfe
    parts = 1 if size is None else -(-6 // size)
    first = Fails(pipeline, at=int((parts - 0.3) * calls))
    with pytest.raises(ValueError, match="machine broke") as raised:
        pipeline.sample(first, SHAPE, checkpoint=file, every=3, **asked)
    if sys.version_info >= (3, 11):
        assert str(file) in "".join(raised.value.__notes__)
    assert file.exists()
    second = Fails(pipeline)
    assert torch.equal(pipeline.sample(second, SHAPE, checkpoint=file, every=3, **asked), whole)
    per_step = -(-calls // STEPS)
    assert first.calls + second.calls <= parts * calls + 1 + 3 * per_step, "more than three steps were lost"
    assert not file.exists()


def test_a_seed_that_was_drawn_is_in_the_file(tmp_path):
    pipeline, file = DiffusionPipeline(None, "ancestral"), tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        pipeline.sample(Fails(pipeline, 9, KeyboardInterrupt), SHAPE, STEPS, checkpoint=file, every=1)
    result = pipeline.sample(Fails(pipeline), SHAPE, STEPS, checkpoint=file, return_result=True)
    again = pipeline.sample(Fails(pipeline), SHAPE, STEPS, seed=result.keys[0][0])
    assert torch.equal(result.samples, again)


def test_memory_that_runs_out_costs_no_steps_that_were_saved(tmp_path):
    pipeline, file = DiffusionPipeline(None, "dpmpp_2m"), tmp_path / "run.safetensors"
    whole = pipeline.sample(Fails(pipeline), SHAPE, STEPS, seed=1)
    model = Fails(pipeline, 9, MemoryError)
    got = pipeline.sample(model, SHAPE, STEPS, seed=1, checkpoint=file, every=1)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5)
    assert model.calls == 9 + 2 * (STEPS - 8), "both halves go on at step 8"


def test_a_smaller_part_goes_on_from_a_larger_one(tmp_path):
    pipeline, file = DiffusionPipeline(None, "dpmpp_2m"), tmp_path / "run.safetensors"
    with pytest.raises(ValueError, match="machine"):
        pipeline.sample(Fails(pipeline, 8), SHAPE, STEPS, seed=1, checkpoint=file, every=2)
    model = Fails(pipeline)
    got = pipeline.sample(model, SHAPE, STEPS, seed=1, checkpoint=file, max_batch_size=2)
    torch.testing.assert_close(got, pipeline.sample(Fails(pipeline), SHAPE, STEPS, seed=1), rtol=0, atol=1e-5)
    assert model.calls == 3 * 6


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 2}, "seed"), ({"num_inference_steps": 13}, "number of steps"), ({"shape": (5, 1, 8, 8)}, "shape"),
        ({"condition": {"class_labels": torch.zeros(6, dtype=torch.int64)}}, "condition"),
        ({"guidance": ClassifierFree(3.0), "condition": LABELS}, "condition, guidance"),
        ({"dtype": torch.float64}, "dtype"), ({"noise": "brownian"}, "noise"), ({"first_index": 3}, "seed"),
    ],
)  # fmt: skip
def test_a_file_of_another_run_is_refused(tmp_path, other, says):
    pipeline, file = DiffusionPipeline(None, "ancestral"), tmp_path / "run.safetensors"
    asked = {"shape": SHAPE, "num_inference_steps": STEPS, "seed": 1, "checkpoint": file, "every": 2}
    with pytest.raises(ValueError, match="machine"):
        pipeline.sample(Fails(pipeline, 8), **asked)
    before, model = file.read_bytes(), Fails(pipeline)
    with pytest.raises(ConfigurationError, match=says) as raised:
        pipeline.sample(model, **{**asked, **other})
    assert (raised.value.where, model.calls, file.read_bytes()) == ("checkpoint", 0, before)


@pytest.mark.parametrize(
    ("method", "arguments", "where"),
    [
        ("ddim", {"every": 3}, "every"), ("ddim", {"checkpoint": "a.safetensors", "every": 0}, "every"),
        ("ddim", {"checkpoint": "a.pt"}, "a.pt"), ("ddim", {"checkpoint": "no/folder/a.safetensors"}, None),
        ("ddim", {"checkpoint": "a.safetensors", "early_stopping": 0.1}, "checkpoint"),
        ("ddim", {"checkpoint": "a.safetensors", "differentiable": True}, "checkpoint"),
        ("adaptive", {"checkpoint": "a.safetensors"}, "checkpoint"), ("ddim", {"checkpoint": 3}, "path"),
    ],
)  # fmt: skip
def test_what_cannot_go_on_is_refused_before_the_run(tmp_path, monkeypatch, method, arguments, where):
    monkeypatch.chdir(tmp_path)
    pipeline = DiffusionPipeline(None, method)
    model = Fails(pipeline)
    with pytest.raises((ConfigurationError, FileError)) as raised:
        pipeline.sample(model, SHAPE, STEPS, **arguments)
    assert where in (None, raised.value.where)
    assert model.calls == 0
    assert os.listdir(tmp_path) == []


def test_a_changed_file_and_a_state_that_is_not_finite_are_refused(tmp_path):
    pipeline, file = DiffusionPipeline(None, "ddim"), tmp_path / "run.safetensors"
    asked = {"num_inference_steps": STEPS, "seed": 1, "checkpoint": file, "every": 1}

    def broken(x, t):
        return x * float("nan") if float(t[0]) < 500 else x

    with pytest.raises(ModelOutputError, match="NaN"):
        pipeline.sample(broken, SHAPE, **asked)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(FileError, match="changed"):
        pipeline.sample(broken, SHAPE, **asked)


def test_a_run_goes_on_with_the_plan_that_another_processor_compiled(tmp_path):
    """The last digits of levels differ between processors, and so does the hash of a plan that is compiled again."""
    pipeline, file = DiffusionPipeline(None, "dpmpp_2m"), tmp_path / "run.safetensors"
    here = pipeline.plan(STEPS)
    there = replace(here, b=here.b * (1.0 + 2.0**-52))
    assert there.content_hash != here.content_hash
    whole = pipeline.sample(Fails(pipeline), SHAPE, plan=there, seed=4)
    with pytest.raises(ValueError, match="machine broke"):
        pipeline.sample(Fails(pipeline, at=9), SHAPE, plan=there, seed=4, checkpoint=file, every=3)
    with pytest.raises(ConfigurationError, match=r"another type of processor.*give plan="):
        pipeline.sample(Fails(pipeline), SHAPE, num_inference_steps=STEPS, seed=4, checkpoint=file)
    there.save(tmp_path / "plan.json")
    plan = SamplingPlan.load(tmp_path / "plan.json")
    assert torch.equal(pipeline.sample(Fails(pipeline), SHAPE, plan=plan, seed=4, checkpoint=file), whole)
