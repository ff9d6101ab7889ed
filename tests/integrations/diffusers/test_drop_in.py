"""PlanScheduler is told, and looked into for, what the code of the installed diffusers tells and looks for."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.utils import BaseOutput

from noise_scheduler_sampling_system.integrations.diffusers import PlanScheduler, read
from noise_scheduler_sampling_system.integrations.diffusers.scheduler.class_signature import signature_of
from noise_scheduler_sampling_system.integrations.diffusers.scheduler.scheduler_attributes import LACKING
from noise_scheduler_sampling_system.support.errors import ConfigurationError

ROOT = Path(diffusers.__file__).parent
FOLDERS = ("pipelines", "modular_pipelines", "loaders", "guiders", "hooks", "callbacks.py", "training_utils.py")
#: Pipelines of schedulers without a path here (tokens, policies, pyramids) hand over words of their own.
OTHERS = ("amused", "repaint", "vq_diffusion", "llada2", "diffusion_gemma", "helios", "rfd4_proteina", "karras_ve",
          "score_sde_ve", "cogvideo", "anyflow", "stable_cascade", "wuerstchen")  # fmt: skip
TWINS = [
    "DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler", "TCDScheduler", "UnCLIPScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
    "UniPCMultistepScheduler", "SASolverScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler",
    "CosineDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler", "IPNDMScheduler",
]  # fmt: skip


def is_scheduler(node: ast.AST) -> bool:
    """``scheduler``, ``self.scheduler``, ``components.scheduler``, ..."""
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name == "scheduler"


def trees() -> Iterator[tuple[str, ast.AST]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")) if (ROOT / folder).is_dir() else [ROOT / folder]:
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def scanned() -> tuple[dict[str, str], dict[tuple[str, int, tuple[str, ...]], str]]:
    """Attributes of schedulers, and calls (method, values by place, names), each with a file that has it."""
    attributes: dict[str, str] = {}
    calls: dict[tuple[str, int, tuple[str, ...]], str] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_scheduler(node.value):
                attributes.setdefault(node.attr, path)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and is_scheduler(node.func.value):
                names = tuple(sorted(k.arg for k in node.keywords if k.arg))
                calls.setdefault((node.func.attr, len(node.args), names), path)
    return attributes, calls


ATTRIBUTES, CALLS = scanned()
SETTINGS = {"num_train_timesteps": 100}


def theirs_and_ours(name: str, **settings: Any) -> tuple[Any, PlanScheduler]:
    theirs = getattr(diffusers, name)(**settings)
    return theirs, PlanScheduler.from_config(theirs)


def test_the_scan_finds_what_pipelines_do():
    assert {"step", "timesteps", "order", "init_noise_sigma", "betas", "_step_index"} <= ATTRIBUTES.keys()
    assert ("step", 3, ("per_token_timesteps", "return_dict")) in CALLS
    assert len(CALLS) > 50


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_every_attribute_that_is_looked_into_is_there_or_said_to_be_missing(name):
    found = []
    for cls in ("DDIMScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"):
        scheduler = theirs_and_ours(cls)[1]
        scheduler.set_timesteps(4, **({"mu": 0.5} if cls.startswith("Flow") else {}))
        found.append(hasattr(scheduler, name))
        if name in LACKING:
            with pytest.raises(ConfigurationError, match=f"there is no {name}"):
                getattr(scheduler, name)
            with pytest.raises(AttributeError):
                getattr(scheduler, name)
    assert any(found) != (name in LACKING), f"{name}, which {ATTRIBUTES[name]} reads"


@pytest.mark.parametrize(("method", "placed", "names"), sorted(CALLS), ids=str)
def test_every_call_is_taken_or_refused_by_our_own_error(method, placed, names):
    """The words of a call reach a class that takes them; where none does, the error says which word."""
    if method in LACKING or any(other in CALLS[method, placed, names] for other in OTHERS):
        pytest.skip("for schedulers that PlanScheduler does not stand for")
    accepted = []
    for name in TWINS:
        own = signature_of(name)
        if method == "step":
            names_in_place = [*("model_output", "timestep", "sample"), *own.step][:placed]
            known = {*own.step, "model_output", "timestep", "sample", "eta", "use_clipped_model_output"}
        elif method == "set_timesteps":
            names_in_place, known = list(own.set_timesteps)[:placed], {*own.set_timesteps}
        else:
            signature = inspect.signature(getattr(theirs_and_ours(name)[1], method))
            names_in_place = list(signature.parameters)[:placed]
            known = {*signature.parameters} if method != "register_to_config" else {*names}
        accepted.append(len(names_in_place) == placed and set(names) <= known)
    assert any(accepted), CALLS[method, placed, names]


# what a step returns


@pytest.mark.parametrize("name", TWINS)
def test_what_a_step_returns_looks_like_theirs(name):
    theirs, ours = theirs_and_ours(name)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    pairs, tuples = [], []
    for scheduler in (theirs, ours):
        for kept, told in ((pairs, {}), (tuples, {"return_dict": False})):
            scheduler.set_timesteps(5)
            t = scheduler.timesteps[0]
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(x, t)
            kept.append(scheduler.step(0.1 * x, t, x, **told))
    assert list(pairs[0].keys()) == list(pairs[1].keys())
    assert isinstance(pairs[1], BaseOutput)
    assert isinstance(tuples[1], tuple)
    assert len(tuples[0]) == len(tuples[1]) == len(pairs[1].to_tuple())
    assert len(list(tuples[1])) == len(tuples[1])
    for value, other in zip(tuples[1], pairs[1].values(), strict=True):
        assert value.shape == x.shape
        assert other.shape == x.shape
    assert pairs[1].pred_original_sample.shape == x.shape
    pairs[1]["prev_sample"] = x
    assert pairs[1].prev_sample is x
    for copied in (copy.deepcopy(pairs[1]), pickle.loads(pickle.dumps(pairs[1]))):
        assert list(copied) == list(pairs[1])
        assert all(torch.equal(a, b) for a, b in zip(copied.values(), pairs[1].values(), strict=True))


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler"])
def test_what_is_returned_beside_the_state_is_theirs(name):
    theirs, ours = theirs_and_ours(name)
    generator = torch.Generator().manual_seed(2)
    x, output = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    second = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4)
        t = scheduler.timesteps[0]
        state = x * scheduler.init_noise_sigma
        scheduler.scale_model_input(state, t)
        second.append(scheduler.step(output, t, state, generator=torch.manual_seed(0), return_dict=False)[1])
    torch.testing.assert_close(second[1], second[0], rtol=1e-4, atol=1e-4)


# what a step is told


def test_values_by_place_mean_what_they_mean_in_the_class():
    x, output = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for name, placed in (
        ("TCDScheduler", (0.7, torch.Generator)), ("DDIMScheduler", (0.7, False, torch.Generator)),
        ("EulerAncestralDiscreteScheduler", (torch.Generator,)),
        ("EulerDiscreteScheduler", (0.0, 0.0, math.inf, 1.0, torch.Generator)),
    ):  # fmt: skip
        theirs, ours = theirs_and_ours(name)
        states = []
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(6)
            t = scheduler.timesteps[2]
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(2)
            values = [v().manual_seed(3) if v is torch.Generator else v for v in placed]
            factor = 1.0
            if scheduler is theirs and hasattr(theirs, "sigmas"):  # which keeps x/α
                factor = float((theirs.sigmas[theirs.index_for_timestep(t)] ** 2 + 1) ** 0.5)
            scheduler.scale_model_input(x * factor, t)
            after = scheduler.step(output, t, x * factor, *values).prev_sample
            if scheduler is theirs and hasattr(theirs, "sigmas"):
                after = after / float((theirs.sigmas[theirs.step_index] ** 2 + 1) ** 0.5)
            states.append(after)
        torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigurationError, match="given by position and by name"):
        ours.step(output, ours.timesteps[0], x, 0.0, s_churn=0.0)
    with pytest.raises(ConfigurationError, match="positional values are given, and EulerDiscreteScheduler takes 6"):
        ours.step(output, ours.timesteps[0], x, *range(7))


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_given_noise_takes_the_place_of_a_drawn_one(name):
    settings = {"algorithm_type": "sde-dpmsolver++"} if name.startswith("DPM") else {"clip_sample": False}
    theirs, ours = theirs_and_ours(name, **settings)
    told = {"eta": 1.0} if name == "DDIMScheduler" else {}
    generator = torch.Generator().manual_seed(4)
    x, output, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(3))
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
        states.append(scheduler.step(output, scheduler.timesteps[0], x, variance_noise=noise, **told).prev_sample)
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)


def test_tokens_with_times_of_their_own():
    theirs, ours = theirs_and_ours("FlowMatchEulerDiscreteScheduler", shift=2.0)
    x, output = torch.randn(2, 2, 6, 3, generator=torch.Generator().manual_seed(5))
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4)
        t, state = scheduler.timesteps, x
        for time in t[:3]:
            tokens = time.expand(2, 6).clone()
            tokens[:, :2] = torch.tensor([0.0, 300.0])  # as of conditions of strength 1 and 0.7
            tokens = torch.minimum(tokens, time)
            state = scheduler.step(output, time, state, per_token_timesteps=tokens, return_dict=False)[0]
        states.append(state)
    torch.testing.assert_close(states[1], states[0])
    other = PlanScheduler.from_config(theirs, method="dpmpp_2m")
    other.set_timesteps(4)
    together = other.timesteps[0].expand(2, 6)
    other.step(output, other.timesteps[0], x, per_token_timesteps=together)
    with pytest.raises(ConfigurationError, match="takes all tokens"):
        other.step(output, other.timesteps[1], x, per_token_timesteps=together)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler"])
@pytest.mark.parametrize("given", [{"original_inference_steps": 20}, {"strength": 0.5}, {"timesteps": [900, 400, 20]}])
def test_what_only_one_class_takes_for_its_timesteps(name, given):
    theirs, ours = theirs_and_ours(name)
    steps = None if "timesteps" in given else 4
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps, **given)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    if steps:
        original = given.get("original_inference_steps")
        ours.set_timesteps(4, "cpu", original, None, given.get("strength", 1.0))
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    again = copy.deepcopy(ours)
    assert again.timesteps.tolist() == theirs.timesteps.tolist()
    with pytest.raises(ConfigurationError, match="strength"):
        PlanScheduler.from_config(theirs, timestep_spacing="karras").set_timesteps(4, strength=0.5)
    with pytest.raises(ConfigurationError, match=r"DDIMScheduler.set_timesteps takes no 'strength'"):
        theirs_and_ours("DDIMScheduler")[1].set_timesteps(4, strength=0.5)


# what is looked into


@pytest.mark.parametrize("name", TWINS)
def test_before_the_first_set_timesteps_it_looks_like_theirs(name):
    theirs, ours = theirs_and_ours(name)
    for table in ("timesteps", "sigmas", "betas", "alphas", "alphas_cumprod", "final_alpha_cumprod", "sigma_min",
                  "sigma_max", "shift"):  # fmt: skip
        expected = getattr(theirs, table, None)
        if expected is not None:
            torch.testing.assert_close(
                torch.as_tensor(getattr(ours, table)), torch.as_tensor(expected), check_dtype=False
            )
    assert isinstance(ours.init_noise_sigma, torch.Tensor) == isinstance(
        getattr(theirs, "init_noise_sigma", 1.0), torch.Tensor
    )
    for cls in ours.compatibles:
        assert cls.from_config(ours.config) is not None
    assert type(theirs) in ours.compatibles


@pytest.mark.parametrize("name", TWINS)
def test_the_place_of_a_time(name):
    theirs, ours = theirs_and_ours(name)
    if not hasattr(theirs, "index_for_timestep") or name.startswith("KDPM2Anc"):
        pytest.skip("it has none, or visits one time twice by rounding")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
    for theirs_t, ours_t in zip(theirs.timesteps[:-1], ours.timesteps[:-1], strict=False):
        assert ours.index_for_timestep(ours_t) == theirs.index_for_timestep(theirs_t)
    with pytest.raises(ConfigurationError, match="none of the times"):
        ours.index_for_timestep(12345)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler"])
def test_steps_before_set_timesteps_visit_every_training_time(name):
    theirs, ours = theirs_and_ours(name, **SETTINGS, clip_sample=False)
    x, output = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    if name == "DDIMScheduler":  # which wants it said
        theirs.set_timesteps(100)
    for time in (57, 56):
        states = [
            s.step(output, time, x, generator=torch.Generator().manual_seed(0)).prev_sample for s in (theirs, ours)
        ]
        torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigurationError, match="no timesteps yet"):
        PlanScheduler.from_config(theirs, method="dpmpp_2m").step(output, 57, x)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_steps_from_times_that_are_not_in_its_list(eta):
    theirs, ours = theirs_and_ours("DDIMScheduler", clip_sample=False)
    x, output = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(6))
    for time in (1, 333, 998):
        states = []
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(10)
            told = {"eta": eta, "generator": torch.Generator().manual_seed(0)}
            states.append(scheduler.step(output, time, x, **told).prev_sample)
        torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_times_that_are_no_whole_numbers_are_known_by_value(name):
    ours = theirs_and_ours(name)[1]
    ours.set_timesteps(7)
    x = torch.zeros(1, 3, 4, 4)
    for time in ours.timesteps.tolist():
        x = ours.step(x, time, ours.scale_model_input(x, time) * 0.0).prev_sample


@pytest.mark.parametrize("shift", [0.5, 4.0])
def test_a_shift_that_is_set(shift):
    theirs, ours = theirs_and_ours("FlowMatchEulerDiscreteScheduler", shift=2.0)
    for scheduler in (theirs, ours):
        scheduler.set_shift(shift)
        scheduler.set_timesteps(5)
        assert scheduler.shift == shift
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(pickle.loads(pickle.dumps(ours)).timesteps, theirs.timesteps)
    with pytest.raises(ConfigurationError, match="has none"):
        theirs_and_ours("DDIMScheduler")[1].set_shift(shift)
    with pytest.raises(ConfigurationError, match="positive"):
        ours.set_shift(0.0)


def test_a_step_is_made_again_as_cosmos_does():
    theirs, ours = theirs_and_ours("EDMEulerScheduler")
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(7))
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4)
        latents = x
        for t in scheduler.timesteps:
            double = torch.cat([latents, latents])
            clean = scheduler.step(0.1 * scheduler.scale_model_input(double, t), t, double, return_dict=False)[1]
            scheduler._step_index -= 1
            guided = clean[:1] + 0.5 * clean[1:]
            latents = scheduler.step(guided, t, latents, return_dict=False, pred_original_sample=guided)[0]
        states.append(latents)
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)


# configs


@pytest.mark.parametrize("name", TWINS)
def test_a_saved_config_is_the_same_when_it_is_loaded(name, tmp_path):
    _, ours = theirs_and_ours(name)
    ours.save_pretrained(tmp_path)
    config = {key: value for key, value in ours.config.items() if key != "_use_default_values"}
    assert PlanScheduler.from_pretrained(tmp_path).config == config


def test_a_class_that_was_made_of_our_config_is_that_class():
    ours = theirs_and_ours("DDIMScheduler")[1]
    other = diffusers.DPMSolverMultistepScheduler.from_config(ours.config)
    for source in (other, other.config):
        assert read(source).class_name == "DPMSolverMultistepScheduler"
        again = PlanScheduler.from_config(source)
        again.set_timesteps(4)
        assert again.plan.sampler == "dpmpp_2m"


def test_ace_step_counts_time_as_sigma():
    theirs, ours = theirs_and_ours("FlowMatchEulerDiscreteScheduler", num_train_timesteps=1, shift=3.0)
    x, output = torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(8))
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.3])
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(output * state, t, state, return_dict=False)[0]
        states.append(state)
    torch.testing.assert_close(states[1], states[0])


@pytest.mark.parametrize("settings", [{}, {"solver_order": 3}, {"prediction_type": "v_prediction"}], ids=str)
def test_a_last_step_that_stays_corrects_the_one_before(settings):
    theirs, ours = theirs_and_ours(
        "UniPCMultistepScheduler", use_karras_sigmas=True, final_sigmas_type="sigma_min", **settings
    )
    states = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(10)
        x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(9))
        for t in scheduler.timesteps:
            x = scheduler.step(torch.tanh(x) * float(t) / 1000, t, x).prev_sample
        states.append(x)
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-4)


def test_sa_solver_on_karras_levels_runs():
    ours = theirs_and_ours("SASolverScheduler", use_karras_sigmas=True)[1]
    ours.set_timesteps(10)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    for t in ours.timesteps:
        x = ours.step(0.1 * x, t, x, generator=torch.Generator().manual_seed(1)).prev_sample
    assert bool(x.isfinite().all())
