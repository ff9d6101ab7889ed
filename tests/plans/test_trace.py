"""Schedulers of diffusers as plans: each one's own loop against its traced plan in ours."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import threading
from typing import Any

import diffusers
import diffusers.schedulers
import numpy as np
import pytest
import torch
from peers import published
from torch import Tensor

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline, NoiseSchedulerConfig, SamplingPlan
from noise_scheduler_sampling_system.running.bound_plan import bind
from noise_scheduler_sampling_system.running.loop import RowState, run_rows

SHAPE = (2, 3, 4, 4)
STEPS = 6


def classes() -> dict[str, Any]:
    """Every class of diffusers that has steps."""
    found = pkgutil.walk_packages(diffusers.schedulers.__path__, diffusers.schedulers.__name__ + ".")
    modules = [importlib.import_module(module.name) for module in found if "flax" not in module.name]
    members = [(module.__name__, *item) for module in modules for item in vars(module).items()]
    return {
        name: member
        for module, name, member in members
        if inspect.isclass(member) and member.__module__ == module and hasattr(member, "set_timesteps")
    }


CLASSES = classes()
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V, X0 = {"prediction_type": "v_prediction"}, {"prediction_type": "sample"}
FLOW_SIGMAS = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
NO_CLIP = {"clip_sample": False}

#: (class, config, further keywords of trace).
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *(("DDIMScheduler", {**NO_CLIP, **more}, {"eta": eta}) for eta in (0.0, 0.7) for more in ({}, V, X0)),
    ("DDIMScheduler", {**NO_CLIP, **LATENT, "set_alpha_to_one": False, "steps_offset": 1}, {}),
    ("DDIMScheduler", {**NO_CLIP, **V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}),
    ("DDIMParallelScheduler", NO_CLIP, {"eta": 0.5}),
    *(("DDPMScheduler", {**NO_CLIP, "variance_type": kind}, {}) for kind in ("fixed_small", "fixed_large")),
    ("DDPMScheduler", {**NO_CLIP, **V, "variance_type": "fixed_small_log"}, {}),
    ("DDPMScheduler", NO_CLIP, {"num_inference_steps": None, "timesteps": [900, 600, 250, 10]}),
    ("DDPMParallelScheduler", {**NO_CLIP, **X0}, {}),
    *(("PNDMScheduler", {**LATENT, "skip_prk_steps": skip, **more}, {}) for skip in (True, False) for more in ({}, V)),
    *(("EulerDiscreteScheduler", {**LATENT, **more}, {}) for more in (
        {}, V, {"timestep_spacing": "trailing"}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True}, {"final_sigmas_type": "sigma_min"}, {"interpolation_type": "log_linear"},
    )),
    ("EulerDiscreteScheduler", LATENT, {"s_churn": 2.0, "s_noise": 1.01}),
    ("EulerDiscreteScheduler", LATENT, {"num_inference_steps": None, "sigmas": [14.0, 5.0, 1.5, 0.4, 0.0]}),
    *(("EulerAncestralDiscreteScheduler", {**LATENT, **more}, {}) for more in ({}, V)),
    *(("HeunDiscreteScheduler", {**LATENT, **more}, {}) for more in ({}, V, {"use_karras_sigmas": True})),
    *(("KDPM2DiscreteScheduler", {**LATENT, **more}, {}) for more in ({}, V, {"use_karras_sigmas": True})),
    *(("KDPM2AncestralDiscreteScheduler", {**LATENT, **more}, {}) for more in ({}, V)),
    *(("LMSDiscreteScheduler", {**LATENT, **more}, {}) for more in ({}, V, {"use_karras_sigmas": True})),
    *(("DPMSolverMultistepScheduler", {**LATENT, "algorithm_type": kind, "final_sigmas_type": "sigma_min", **more}, {})
      for kind in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
      for more in ({}, {"solver_type": "heun"})),
    *(("DPMSolverMultistepScheduler", {**LATENT, **more}, {}) for more in (
        {"solver_order": 1}, {"solver_order": 3}, V, X0, {"use_karras_sigmas": True}, {"use_lu_lambdas": True},
        {"euler_at_final": True}, {"timestep_spacing": "trailing"}, FLOW_SIGMAS, {"lower_order_final": False},
        {"variance_type": "learned_range"},
    )),
    *(("DPMSolverSinglestepScheduler", {**LATENT, "lower_order_final": True, **more}, {}) for more in (
        {}, {"solver_order": 3}, {"solver_order": 1}, {"algorithm_type": "sde-dpmsolver++"}, V, FLOW_SIGMAS,
    )),
    *(("UniPCMultistepScheduler", {**LATENT, **more}, {}) for more in (
        {}, {"solver_order": 3}, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"},
        {"predict_x0": False, "final_sigmas_type": "sigma_min"}, {"disable_corrector": [0, 1]}, V,
        {"use_karras_sigmas": True}, {"final_sigmas_type": "sigma_min"}, FLOW_SIGMAS,
    )),
    *(("DEISMultistepScheduler", {**LATENT, **more}, {}) for more in ({}, {"solver_order": 3}, V, FLOW_SIGMAS)),
    *(("SASolverScheduler", {**LATENT, **more}, {}) for more in (
        {}, V, {"algorithm_type": "data_prediction", "predictor_order": 3, "corrector_order": 3},
    )),
    *(("DPMSolverSDEScheduler", {**LATENT, **more}, {}) for more in ({}, V, {"use_karras_sigmas": True})),
    *(("LCMScheduler", {"num_train_timesteps": 1000, **more}, {}) for more in ({}, V)),
    ("TCDScheduler", {}, {"eta": 0.3}),
    *(("EDMEulerScheduler", more, {}) for more in ({}, V, {"sigma_schedule": "exponential"})),
    ("EDMEulerScheduler", {}, {"s_churn": 3.0}),
    *(("EDMDPMSolverMultistepScheduler", more, {}) for more in (
        {}, V, {"solver_order": 3}, {"algorithm_type": "sde-dpmsolver++"},
    )),
    ("CosineDPMSolverMultistepScheduler", {"sigma_max": 80.0}, {}),
    ("CMStochasticIterativeScheduler", {"clip_denoised": False}, {}),
    *(("FlowMatchEulerDiscreteScheduler", more, {}) for more in (
        {}, {"shift": 3.0}, {"use_karras_sigmas": True}, {"stochastic_sampling": True}, {"shift_terminal": 0.1},
        {"invert_sigmas": False, "use_beta_sigmas": True}, {"invert_sigmas": True, "shift": 3.0},
    )),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, {"mu": 0.8}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}, {}),
    ("FlowMatchLCMScheduler", {}, {}),
    *(("FlowMapEulerDiscreteScheduler", more, {}) for more in ({}, {"shift": 5.0})),
    ("LTXEulerAncestralRFScheduler", {}, {}),
    ("MiniMaxH3Scheduler", {}, {}),
    ("IPNDMScheduler", {}, {}),
    ("DDPMWuerstchenScheduler", {}, {}),
    ("SCMScheduler", {}, {"num_inference_steps": 2}),
    ("UnCLIPScheduler", NO_CLIP, {}),
    *(("CogVideoXDDIMScheduler", {**NO_CLIP, "timestep_spacing": "trailing", **more}, {}) for more in ({}, V)),
    *(("CogVideoXDPMScheduler", {**NO_CLIP, "timestep_spacing": "trailing", **more}, {}) for more in (
        {}, V, X0, {"rescale_betas_zero_snr": True, **V},
    )),
    *(("DDIMInverseScheduler", {**NO_CLIP, **more}, {}) for more in (
        {}, V, {"set_alpha_to_one": False, "steps_offset": 1, **X0},
    )),
    *(("DPMSolverMultistepInverseScheduler", {**LATENT, **more}, {}) for more in ({}, V, {"solver_order": 3})),
]  # fmt: skip

#: Classes that are no table of numbers, how to make one, and what the refusal says.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "AmusedScheduler": ({"mask_token_id": 3}, "its noise levels"),
    "BlockRefinementScheduler": ({}, "its noise levels"),
    "DiscreteDDIMScheduler": ({}, "its noise levels"),
    "EntropyBoundScheduler": ({}, "its noise levels"),
    "VQDiffusionScheduler": ({"num_vec_classes": 4}, "its noise levels"),
    "ConsistencyDecoderScheduler": ({}, "set_timesteps failed"),  # it has two steps at most, of its own model
    "HeliosScheduler": ({}, "set_timesteps failed"),  # it changes the resolution on the way
    "HeliosDMDScheduler": ({}, "set_timesteps failed"),
    "PiflowScheduler": ({}, "its step failed"),  # the model returns a mixture
    "KarrasVeScheduler": ({}, "its step needs 'sample_hat'"),
    "RePaintScheduler": ({}, "its step needs 'original_image'"),
    "RFD4ProteinaScheduler": (
        {"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0}, "set_timesteps failed",
    ),
    "ScoreSdeVeScheduler": ({}, "has no step()"),
    "ScoreSdeVpScheduler": ({}, "has no step()"),
}  # fmt: skip


def network(x: Tensor, t: Any) -> Tensor:
    """A smooth nonlinear function of x and t, as a stand-in for a trained network; float64 inside."""
    phase = torch.as_tensor(t, dtype=torch.float64) / 400
    y = x.double()
    y = 0.7 * torch.tanh(0.5 * y.roll(1, -1) + 0.5 * y * torch.cos(phase)) + 0.2 * torch.sin(phase)
    return y.to(x.dtype)


def noises(count: int) -> list[Tensor]:
    return list(torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(5)))


class Path:
    """Brownian motion at the places where it is asked for, each below the ones before."""

    def __init__(self, feed: Any) -> None:
        self.feed, self.known = feed, {}

    def __call__(self, start: Any, end: Any) -> Tensor:
        places = [float(place) for place in (start, end)]  # which are computed in several ways
        places = [next((k for k in self.known if abs(k - p) < 1e-5 * p), p) for p in places]
        for place in places:
            if place not in self.known:
                above = min(self.known, default=None)
                self.known[place] = (
                    torch.zeros(SHAPE)
                    if above is None
                    else self.known[above] + (above - place) ** 0.5 * next(self.feed)
                )
        first, last = (self.known[place] for place in places)
        return (last - first) / (places[0] - places[1]) ** 0.5


def preconditioned(scheduler: Any, name: str, asked: list[float]) -> Any:
    """The denoiser D(x, σ) that a scheduler makes of a raw network."""
    if name == "CMStochasticIterativeScheduler":

        def denoiser(x: Tensor, sigma: float) -> Tensor:
            skip, out = scheduler.get_scalings_for_boundary_condition(sigma)
            scale = (sigma**2 + scheduler.config.sigma_data**2) ** 0.5
            i = min(range(len(asked)), key=lambda j: abs(float(scheduler.sigmas[j]) - sigma))
            return out * network(x / scale, asked[i]) + skip * x

        return denoiser

    def denoiser(x: Tensor, sigma: float) -> Tensor:
        level = torch.tensor(sigma)
        raw = network(scheduler.precondition_inputs(x, level), scheduler.precondition_noise(level))
        return scheduler.precondition_outputs(x, raw, level)

    return denoiser


def theirs(scheduler: Any, options: dict[str, Any], x: Tensor, draws: list[Tensor], monkeypatch: Any) -> Tensor:
    """The scheduler's own loop as its pipelines run it, its random numbers replaced by the given ones."""
    feed = iter(draws)
    module = importlib.import_module(type(scheduler).__module__)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(feed), raising=False)
    known = inspect.signature(scheduler.set_timesteps).parameters
    given = {"num_inference_steps": STEPS, **options}
    given = {k: v for k, v in given.items() if v is not None}
    scheduler.set_timesteps(**{k: v for k, v in given.items() if k in known})
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = Path(feed)
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    name, times = type(scheduler).__name__, scheduler.timesteps
    more = {k: v for k, v in given.items() if k not in known}
    if name in ("SCMScheduler", "DDPMWuerstchenScheduler"):
        times = times[:-1]
    old = None
    for i, t in enumerate(times):
        asked = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        output = network(asked, t)
        if name == "CogVideoXDPMScheduler":
            x, old = scheduler.step(output, old, t, times[i - 1] if i else None, x, return_dict=False)
        elif name == "UnCLIPScheduler":
            x = scheduler.step(output, t, x, prev_timestep=times[i + 1] if i + 1 < len(times) else None).prev_sample
        elif name == "DDPMWuerstchenScheduler":
            x = scheduler.step(output, t.expand(len(x)), x).prev_sample
        else:
            x = scheduler.step(output, t, x, **more).prev_sample
    return x


def ours(plan: SamplingPlan, model: Any, quantity: str, x: Tensor, draws: list[Tensor]) -> Tensor:
    """The plan in our loop, each noise the one that was drawn at its place."""
    keys = [tuple(key) for key in plan.noise_key.tolist() if key[0] >= 0]
    by_key = dict(zip(keys, draws, strict=False))
    bound = bind(plan, quantity)
    start = RowState(0, x * plan.prior_scale, {})
    *_, last = run_rows(bound, lambda x, i: model(x, float(plan.time[i])), start, lambda *key: by_key[key])
    return last.x


def quantity_of(scheduler: Any) -> str:
    if hasattr(scheduler, "precondition_outputs") or hasattr(scheduler, "sigma_to_t"):
        return "sample"
    if isinstance(scheduler, diffusers.IPNDMScheduler | diffusers.SCMScheduler):
        return "v_prediction"
    straight = not hasattr(scheduler, "alphas_cumprod") and getattr(scheduler, "sigmas", None) is not None
    return getattr(scheduler.config, "prediction_type", "flow_prediction" if straight else "epsilon")


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def identify(case: Any) -> str:
    name, config, options = case
    return name + "".join(f"-{k}={v}" for k, v in {**config, **options}.items() if k not in {**LATENT, **NO_CLIP})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=identify)
def test_a_traced_plan_gives_the_schedulers_own_result(case, monkeypatch):
    name, config, options = case
    scheduler = CLASSES[name](**config)
    before = {k: repr(v) for k, v in vars(scheduler).items()}
    plan = SamplingPlan.trace(scheduler, **{"num_inference_steps": STEPS, **options})
    assert {k: repr(v) for k, v in vars(scheduler).items()} == before
    x, draws = noises(1)[0], noises(1 + 2 * len(plan))[1:]
    expected = theirs(scheduler, options, x, draws, monkeypatch)
    quantity, model = quantity_of(scheduler), network
    if quantity == "sample" and getattr(scheduler.config, "prediction_type", None) != "sample":
        model = preconditioned(scheduler, name, [float(t) for t in scheduler.timesteps])
    if name == "MiniMaxH3Scheduler" or config.get("invert_sigmas"):  # their velocity points to the data
        model = lambda x, t: -network(x, t)  # noqa: E731
    got = ours(plan, model, quantity, x, draws)
    assert plan.nfe == len(scheduler.timesteps) - (name in ("SCMScheduler", "DDPMWuerstchenScheduler"))
    # its polynomial integrals lose digits in single precision: in double the two agree to 1e-13
    tolerance = 1e-4 if name == "DEISMultistepScheduler" and "use_flow_sigmas" in config else 1e-5
    assert relative(got, expected) < tolerance


def test_every_scheduler_of_diffusers_is_traced_or_refused():
    tested = {name for name, _, _ in CASES} | set(REFUSED)
    assert set(CLASSES) == tested


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused(name):
    config, message = REFUSED[name]
    with pytest.raises(ConfigurationError) as refused:
        SamplingPlan.trace(CLASSES[name](**config), 4)
    assert message in str(refused.value)
    assert refused.value.suggestion


@pytest.mark.parametrize(
    ("name", "config", "setting"),
    [
        ("DDIMScheduler", {"clip_sample": True}, "clip_sample=True"),
        ("DDPMScheduler", {"clip_sample": True, "clip_sample_range": 3.0}, "clip_sample=True"),
        ("DDPMScheduler", {"clip_sample": False, "thresholding": True}, "thresholding=True"),
        ("DPMSolverMultistepScheduler", {"thresholding": True}, "thresholding=True"),
        ("UniPCMultistepScheduler", {"thresholding": True, "sample_max_value": 100.0}, "thresholding=True"),
        ("HeunDiscreteScheduler", {"clip_sample": True}, "clip_sample=True"),
        ("CMStochasticIterativeScheduler", {}, "clip_denoised=True"),
        ("LCMScheduler", {"clip_sample": True}, "clip_sample=True"),
    ],
)
def test_a_scheduler_that_clips_is_refused_and_the_setting_named(name, config, setting):
    with pytest.raises(ConfigurationError, match="not linear") as refused:
        SamplingPlan.trace(CLASSES[name](**config), STEPS)
    assert setting in refused.value.why
    assert setting.replace("True", "False") in refused.value.suggestion


def test_other_refusals():
    with pytest.raises(ConfigurationError, match="learned_range"):
        SamplingPlan.trace(diffusers.DDPMScheduler(clip_sample=False, variance_type="learned_range"), 4)
    with pytest.raises(ConfigurationError, match="not finite"):
        SamplingPlan.trace(diffusers.UniPCMultistepScheduler(solver_type="bh1"), 4)
    with pytest.raises(ConfigurationError, match="takes no 'etha'"):
        SamplingPlan.trace(diffusers.DDIMScheduler(clip_sample=False), 4, etha=1.0)
    with pytest.raises(ConfigurationError, match=r"set_timesteps failed.*mu"):
        SamplingPlan.trace(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), 4)
    with pytest.raises(ConfigurationError, match="whole number"):
        SamplingPlan.trace(diffusers.DDIMScheduler(clip_sample=False), 0)


class Affine:
    """A scheduler of one's own, which adds a constant, or squares."""

    def __init__(self, bias: float = 0.0, power: int = 1) -> None:
        self.bias, self.power = bias, power

    def set_timesteps(self, num_inference_steps: int) -> None:
        self.timesteps = torch.linspace(900, 100, num_inference_steps)

    def add_noise(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        angle = t.double() / 1000 * np.pi / 2
        return torch.cos(angle) * x + torch.sin(angle) * noise

    def step(self, output: Tensor, t: Tensor, x: Tensor) -> Tensor:
        return 0.9 * x - 0.1 * output**self.power + self.bias


def test_anything_that_is_used_like_a_scheduler_is_traced():
    plan = SamplingPlan.trace(Affine(), 3)
    assert plan.space == "epsilon"
    np.testing.assert_allclose(plan.a, 0.9, rtol=1e-12)
    np.testing.assert_allclose(plan.b, -0.1, rtol=1e-12)
    np.testing.assert_allclose(plan.alpha[:-1], np.cos(plan.time / 1000 * np.pi / 2), rtol=1e-6)
    for odd in (Affine(bias=1e-3), Affine(power=3)):
        with pytest.raises(ConfigurationError, match="not linear"):
            SamplingPlan.trace(odd, 3)


TWINS: list[tuple[Any, str, dict[str, Any], dict[str, Any]]] = [
    (diffusers.DDIMScheduler, "ddim", {**NO_CLIP, "steps_offset": 1}, {}),
    (diffusers.DDPMScheduler, "ddpm", {**NO_CLIP}, {}),
    (diffusers.EulerDiscreteScheduler, "euler", {"timestep_spacing": "leading", "steps_offset": 1}, {}),
    (diffusers.HeunDiscreteScheduler, "heun", {"timestep_spacing": "leading", "steps_offset": 1}, {}),
    (diffusers.EulerAncestralDiscreteScheduler, "ancestral", {"timestep_spacing": "leading", "steps_offset": 1}, {}),
    (diffusers.DPMSolverMultistepScheduler, "dpmpp_2m", {"timestep_spacing": "trailing", "lower_order_final": False,
                                                         "euler_at_final": True}, {}),
    (diffusers.UniPCMultistepScheduler, "unipc", {"timestep_spacing": "trailing", "lower_order_final": True},
     {"order": 2, "lower_order_final": True}),
]  # fmt: skip


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin[1])
def test_traced_plans_are_those_of_our_twins(twin):
    cls, method, config, options = twin
    config = {"beta_start": 1e-4, "beta_end": 0.02, **config}
    traced = SamplingPlan.trace(cls(**config), STEPS)
    fields = {k: v for k, v in config.items() if k != "clip_sample" and "final" not in k}
    own = DiffusionPipeline(NoiseSchedulerConfig(**fields), method, **published(method), **options).plan(STEPS)
    np.testing.assert_array_equal(traced.time, own.time)
    for mine, other in zip(of_outputs(own), of_outputs(traced), strict=True):
        np.testing.assert_allclose(other, mine, rtol=0, atol=1e-5 * np.abs(mine).max())


def of_outputs(plan: SamplingPlan) -> list[np.ndarray]:
    """Every state as coefficients of x_T, the outputs of a network that predicts ε, and the noises."""
    count = len(plan)
    symbols = torch.eye(1 + 2 * count, dtype=torch.float64)
    keys = {tuple(key): 1 + count + i for i, key in enumerate(plan.noise_key.tolist())}
    states = run_rows(
        bind(plan, "epsilon"), lambda _, i: symbols[1 + i, None], RowState(0, symbols[:1], {}),
        lambda *key: symbols[keys[key], None],
    )  # fmt: skip
    return [state.x[0].numpy() for state in states]


def test_traced_plans_run_on_a_pipeline_of_that_schedule_and_on_no_other():
    scheduler = diffusers.DPMSolverMultistepScheduler(**LATENT, use_karras_sigmas=True)
    plan = SamplingPlan.trace(scheduler, STEPS)
    config = NoiseSchedulerConfig(**LATENT)
    x = noises(1)[0]
    got = DiffusionPipeline(config).sample(network_of_rows, initial_noise=x, plan=plan)
    scheduler.set_timesteps(STEPS)
    expected = x
    for t in scheduler.timesteps:
        expected = scheduler.step(network_of_rows(expected, t.expand(len(x))), t, expected).prev_sample
    assert relative(got, expected) < 1e-5
    with pytest.raises(ConfigurationError, match="another noise schedule"):
        DiffusionPipeline(NoiseSchedulerConfig()).sample(network_of_rows, initial_noise=x, plan=plan)
    assert SamplingPlan.from_dict(plan.to_dict()) == plan


def test_formulas_are_read_off_in_double_precision():
    plan = SamplingPlan.trace(diffusers.DDIMScheduler(**LATENT, **NO_CLIP), STEPS)
    ratio = plan.sigma / plan.alpha
    np.testing.assert_allclose(plan.a, plan.alpha[1:] / plan.alpha[:-1], rtol=1e-12)
    np.testing.assert_allclose(plan.b[:, 0], plan.alpha[1:] * np.diff(ratio), rtol=1e-11)
    # this one rounds every state to single precision in its own loop
    flow = SamplingPlan.trace(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0), STEPS)
    np.testing.assert_allclose(flow.a, 1.0, rtol=1e-14)
    np.testing.assert_allclose(flow.b[:, 0], np.diff(flow.sigma), rtol=1e-13)
    for cls in (
        diffusers.EulerAncestralDiscreteScheduler,
        diffusers.TCDScheduler,
        diffusers.DPMSolverMultistepScheduler,
    ):
        traced = SamplingPlan.trace(cls(), 20)
        assert traced.b.shape[1] <= 2, "rounding was taken for history"


@pytest.mark.parametrize("name", [
    "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler",
])  # fmt: skip
def test_a_run_from_the_middle(name):
    scheduler = CLASSES[name](**LATENT, use_karras_sigmas=True)
    begin = 2 * scheduler.order
    plan = SamplingPlan.trace(scheduler, STEPS, begin=begin)
    x = noises(1)[0]
    got = ours(plan, network, "epsilon", x / plan.prior_scale, [])
    scheduler.set_timesteps(STEPS)
    times = scheduler.timesteps[begin:]
    scheduler.set_begin_index(begin)
    expected = x / (plan.alpha[0] if hasattr(scheduler, "is_scale_input_called") or scheduler.order > 1 else 1.0)
    for t in times:
        asked = scheduler.scale_model_input(expected, t)
        expected = scheduler.step(network(asked, t), t, expected).prev_sample
    assert plan.nfe == len(times)
    assert relative(got, expected) < 1e-5
    with pytest.raises(ConfigurationError, match="begin"):
        SamplingPlan.trace(scheduler, STEPS, begin=100)
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(**LATENT))
    assert relative(pipeline.sample(network_of_rows, initial_sample=x, plan=plan), got) < 1e-5


def network_of_rows(x: Tensor, t: Tensor) -> Tensor:
    return network(x, t.reshape(-1, 1, 1, 1))


def test_clipping_left_out_of_the_trace_is_done_by_the_pipeline():
    # ε from the clipped clean sample on both sides
    keys = {"steps_offset": 1, "clip_sample_range": 0.7}
    clipping = diffusers.DDPMScheduler(**keys, clip_sample=True)
    plan = SamplingPlan.trace(diffusers.DDPMScheduler.from_config(clipping.config, clip_sample=False), STEPS)
    x = noises(1)[0]
    config = NoiseSchedulerConfig(clip_sample=True, **keys)
    result = DiffusionPipeline(config, "ddpm").sample(network_of_rows, initial_noise=x, plan=plan, seed=3)
    own = DiffusionPipeline(config, "ddpm").sample(network_of_rows, STEPS and SHAPE, STEPS, initial_noise=x, seed=3)
    assert relative(result, own) < 1e-4


def test_threads_that_draw_noise_are_not_disturbed():
    drawn: list[Tensor] = []
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            drawn.append(torch.randn(5))

    thread = threading.Thread(target=draw)
    thread.start()
    SamplingPlan.trace(diffusers.EulerAncestralDiscreteScheduler(), 20)
    stop.set()
    thread.join()
    assert all(values.shape == (5,) and values.dtype == torch.float32 for values in drawn)
    assert len(drawn) > 1
