"""Every registered sampler: its order through the real loop, its relations to others, its noise."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from measure import VARIANTS, final_error, grid_of, measured_order, problem, run_plan, weak_order
from peers import published

from noise_scheduler_sampling_system import ConfigurationError, SamplerFactory, SamplingPlan, TimeGrid
from noise_scheduler_sampling_system.config.prediction import quantity
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.models import GaussianMixtureModel
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.samplers.tableaux import BUTCHER, EXPONENTIAL, ButcherTableau, phi
from noise_scheduler_sampling_system.schedules import EDMPath, FlowPath, LinearNoiseScheduler, VPPath
from sampler_names import ONE_TIME

PLACES = [("vp", "digits"), ("cosine", "mixture"), ("edm", "mixture"), ("flow", "gaussian")]
#: The samplers with plans: all but the one whose steps depend on the model.
WRITERS = [name for name in SAMPLERS if SamplerFactory.create(name).writes_plans]
#: The first variant of each sampler everywhere, the others by turns in two places: what differs are their weights.
MEASURED = [
    (name, options, place)
    for name in WRITERS
    for k, options in enumerate(VARIANTS.get(name, [{}]) or [])
    for place in (PLACES[k % 2 :: 2] if k else PLACES)
]


def ids(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{k}={v if not isinstance(v, dict) else 'data'}" for k, v in value.items()) or "default"
    return "-".join(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("name", "options", "place"), MEASURED, ids=ids)
def test_measured_order_is_the_declared_one(name, options, place):
    measured, sampler = measured_order(name, options, *place, coarser=2)
    if measured <= sampler.order - 0.2:  # the order is that of fine steps
        measured, _ = measured_order(name, options, *place)
    assert measured > sampler.order - 0.2


def test_every_deterministic_sampler_is_measured():
    for name in WRITERS:
        sampler = SamplerFactory.create(name)
        if VARIANTS.get(name, [{}]) is None:
            assert sampler.stochastic, name
        elif sampler.stochastic:
            assert name in VARIANTS, f"{name}: say in measure.VARIANTS which options make it deterministic"


@pytest.mark.parametrize("method", ["dpmpp_3m", "dpm_3m", "ipndm_v"])
def test_as_published_is_less_than_third_order(method):
    """What the peers ship: the halved second-order term, and on uneven steps the misplaced parenthesis."""
    order_of = {"order": 3} if method == "ipndm_v" else {}
    p = problem("edm", "mixture")
    exact = p.model.reference_solution(p.x, t=p.high, t_end=p.low)
    measured = {}
    for kind in ("as_published", "exact"):
        sampler = SamplerFactory.create(method, p.path, solver_type=kind, **order_of)
        errors = [
            final_error(run_plan(sampler.plan(grid=grid_of(p.path, p.high, p.low, n)), p.model, p.x), exact)
            for n in (320, 640)
        ]
        measured[kind] = float(np.log2(errors[0] / errors[1]))
        assert sampler.order == {"as_published": 2, "exact": 3}[kind]
    assert measured["exact"] > 2.8
    if method != "ipndm_v":  # its slip vanishes on grids that change as smoothly as this one
        assert measured["as_published"] < 2.2


def test_an_euler_start_costs_third_order_methods_their_order():
    """What "corrected" is for: on the straight path a plain start leaves second order."""
    p, orders = problem("flow", "gaussian"), {}
    exact = p.model.reference_solution(p.x, t=p.high, t_end=p.low)
    for start in ("plain", "corrected"):
        sampler = SamplerFactory.create("dpmpp_3m", p.path, start=start)
        a, b = (
            final_error(run_plan(sampler.plan(grid=grid_of(p.path, p.high, p.low, n)), p.model, p.x), exact)
            for n in (160, 640)
        )
        orders[start] = float(np.log(a / b) / np.log(4.0))
        assert sampler.order == {"plain": 2, "corrected": 3}[start]
    assert orders["plain"] < 2.3
    assert orders["corrected"] > 2.8


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("ddpm", {}, 1), ("ancestral", {}, 1), ("ddim", {"eta": 0.5}, 1), ("euler_ancestral_cfg_pp", {}, 1),
        ("dpmpp_2m_sde", {}, 2), ("dpmpp_3m_sde", {}, 2), ("sa_solver", {}, 1), ("res_multistep", {"eta": 1.0}, 2),
        ("er_sde", {"noise": "sde"}, 2), ("seeds", {}, 2), ("seeds", {"stages": 3}, 1.8), ("dpmpp_sde", {}, 2),
        ("dpmpp_sde", {"brownian": False}, 1), ("dpm2_ancestral", {}, 2), ("dpmpp_2s_ancestral", {}, 2),
        ("edm", {}, 1), ("predictor_corrector", {}, 1), ("flow_grpo", {}, 1), ("dance_grpo", {}, 1), ("precise", {}, 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["edm", "flow"])
def test_weak_order_of_the_stochastic_samplers(name, options, wanted, path):
    """The variance of Gaussian data, computed from the table: no Monte Carlo."""
    order, error = weak_order(name, options, path)
    assert order > wanted - 0.25
    assert error < 0.05


def agree(a: Any, b: Any, path: Any) -> bool:
    """Whether two plans do the same: to one model, from one start, with the same noise."""
    means = torch.randn(4, 3, generator=torch.Generator().manual_seed(2))
    model = GaussianMixtureModel(path, means, 0.3, prediction_type="flow_prediction")
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * a.prior_scale
    source = NoiseSource(resolve_keys(7, None, 5), (3,), torch.float64)
    results = [run_plan(plan, model, x, source) for plan in (a, b)]
    return a.nfe == b.nfe and torch.allclose(*results, rtol=1e-8, atol=1e-8)


RELATIONS = [
    *[((name, {"order": 1}), ("euler", {})) for name in
      ("dpmpp_2m", "dpmpp_3m", "dpm_2m", "dpm_3m", "deis", "lms", "ipndm", "ipndm_v", "adams", "res_multistep")],
    (("dpm_v3", {}), ("unipc", {"solver_type": "exact"})),
    (("dpm_v3", {"corrector": False}), ("dpmpp_3m", {})),
    (("unipc", {"order": 1, "corrector": False}), ("ddim", {})),
    (("unipc", {"order": 2, "corrector": False}), ("dpmpp_2m", {})),
    (("unipc", {"order": 2, "corrector": False, "solver_type": "exact"}), ("res_multistep", {})),
    (("unipc", {"order": 3, "corrector": False, "solver_type": "exact"}), ("dpmpp_3m", {"start": "plain"})),
    (("unipc", {"order": 2, "predict_x0": False, "corrector": False}), ("dpm_2m", {})),
    (("dpmpp_2m", {"solver_type": "exact"}), ("res_multistep", {})),
    (("dpmpp_2m_sde", {"eta": 0.0}), ("dpmpp_2m", {})),
    (("dpmpp_3m_sde", {"eta": 0.0}), ("dpmpp_3m", {})),
    (("dpmpp_2m_sde", {"order": 1, "eta": 1.0}), ("er_sde", {"order": 1, "noise": "sde"})),
    (("deis", {"polynomial": "log_rho"}), ("dpm_3m", {})),
    (("deis", {"polynomial": "rho"}), ("lms", {"order": 3})),
    (("lms", {}), ("ipndm_v", {})),
    (("er_sde", {"order": 1, "noise": "ode"}), ("euler", {})),
    (("sa_solver", {"tau": 0.0, "corrector": False, "lower_order_final": False}), ("res_multistep", {})),
    (("sa_solver", {"tau": 0.0, "corrector_order": 3, "lower_order_final": False}),
     ("unipc", {"order": 2, "solver_type": "exact"})),
    (("seeds", {"eta": 0.0}), ("dpmpp_2s", {})),
    (("seeds", {"eta": 0.0, "stages": 3}), ("dpmpp_3s", {})),
    (("dpmpp_sde", {"eta": 0.0}), ("dpmpp_2s", {})),
    (("dpmpp_2s_ancestral", {"eta": 0.0}), ("dpmpp_2s", {})),
    (("dpm2_ancestral", {"eta": 0.0}), ("dpm2", {})),
    (("exponential_rk", {"tableau": "midpoint2"}), ("dpmpp_2s", {})),
    (("exponential_rk", {"tableau": "midpoint2", "predict": "epsilon"}), ("dpm2", {})),
    (("exponential_rk", {"tableau": "etd2"}), ("res_2s", {})),
    (("exponential_rk", {"tableau": "etd3"}), ("dpmpp_3s", {})),
    (("exponential_rk", {"tableau": "etd3", "predict": "epsilon"}), ("dpm_3s", {})),
    (("runge_kutta", {"tableau": "euler"}), ("euler", {})),
    (("runge_kutta", {"tableau": "euler", "frame": "flow"}), ("euler", {})),
    (("runge_kutta", {"tableau": "heun2", "frame": "sigma"}), ("heun", {})),
    (("edm", {"s_churn": 0.0}), ("heun", {})),
    (("edm", {"s_churn": 0.0, "corrector": False}), ("euler", {})),
    (("tcd", {"eta": 0.0}), ("ddim", {})),
    (("tcd", {"eta": 1.0}), ("lcm", {})),
    (("flow_grpo", {"eta": 0.0}), ("euler", {})),
    (("dance_grpo", {"eta": 0.0}), ("euler", {})),
    (("cps", {"eta": 0.0}), ("euler", {})),
    (("cps", {"eta": 1.0}), ("lcm", {})),
    (("precise", {"eta": 0.0}), ("euler", {})),
    (("precise", {"eta": 2.0**0.5}), ("ancestral", {})),
    (("precise", {"eta": 1.0}), ("dpmpp_2m_sde", {"order": 1, "eta": 0.5})),
    (("gradient_estimation", {"gamma": 1.0}), ("ddim", {})),
    (("ddim_cfg_pp", {}), ("ddim", {})),
    (("ddim_cfg_pp", {"eta": 0.7}), ("ddim", {"eta": 0.7})),
    (("euler_ancestral_cfg_pp", {}), ("ancestral", {})),
    (("dpmpp_2m_cfg_pp", {}), ("dpmpp_2m", {})),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), RELATIONS, ids=lambda pair: f"{pair[0]}({ids(pair[1])})")
def test_relations(one, other):
    for path in (VPPath(), EDMPath(), LinearNoiseScheduler(timestep_spacing="trailing")):
        a, b = (SamplerFactory.create(name, path, **options).plan(9) for name, options in (one, other))
        assert agree(a, b, path)


def test_flow_heun_is_a_runge_kutta_method_from_pure_noise_on():
    path = FlowPath()
    a = SamplerFactory.create("flow_heun", path).plan(9)
    b = SamplerFactory.create("runge_kutta", FlowPath(), tableau="heun2", frame="flow").plan(9)
    assert agree(a, b, path)
    assert a.nfe == 17
    # by hand: x + (σ' − σ)·(v + v')/2
    sigma = np.linspace(1.0, 0.0, 10)
    A, B, _ = a.canonical()
    step = (sigma[1] - sigma[0]) / 2
    v = [a.space_of(i) for i in range(2)]
    assert v == ["flow_prediction", "flow_prediction"]
    np.testing.assert_allclose([A[2], B[2, 0], B[2, 1]], [1.0, step, step], atol=1e-12)


def test_adams_weights_of_equal_steps():
    """On the straight path with even times they are the classical ones, 3/2 and −1/2, 23/12, −16/12, 5/12."""
    plan = SamplerFactory.create("adams", FlowPath(), start="plain").plan(8)
    h = -1 / 8
    A, B, _ = plan.canonical()
    np.testing.assert_allclose(np.diff(B, axis=0)[1, :2], h * np.array([-1 / 2, 3 / 2]), atol=1e-12)
    np.testing.assert_allclose(np.diff(B, axis=0)[5, 3:6], h * np.array([5, -16, 23]) / 12, atol=1e-12)
    np.testing.assert_allclose(A, 1.0, atol=1e-12)


def test_ipndm_is_lms_on_even_sigmas():
    path = EDMPath()
    grid = TimeGrid.from_sigmas(path, np.linspace(70.0, 1.0, 12), end=None)
    plain = SamplerFactory.create("lms", path, start="plain").plan(grid=grid)
    assert agree(SamplerFactory.create("ipndm", path).plan(grid=grid), plain, path)


@pytest.mark.parametrize("name", [name for name in WRITERS if name in ONE_TIME])
@pytest.mark.parametrize("path", [FlowPath, EDMPath, VPPath])
def test_the_analytic_first_step_saves_one_call(name, path):
    """And is what the sampler would do if the first prediction were E[x₀ | x] of unit Gaussian data."""
    plain, afs = (SamplerFactory.create(name, path(), afs=on, **published(name)).plan(12) for on in (False, True))
    assert afs.nfe == plain.nfe - 1
    level = path().level(plain.time[0])
    square = level.alpha**2 + level.sigma**2
    a, b, _ = plain.canonical()
    of_clean, of_noise = quantity(plain.space_of(0), level.alpha, level.sigma)
    known = (of_clean * level.alpha + of_noise * level.sigma) / square
    A, B, _ = afs.canonical()
    np.testing.assert_allclose(A[-1], a[-1] + known * b[-1, 0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(B[-1][B[-1] != 0], b[-1, 1:][b[-1, 1:] != 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", WRITERS)
def test_declared_calls_per_step(name):
    """N steps that all have signal and noise at both ends take N times the declared calls, but for a start."""
    path = VPPath()
    sampler = SamplerFactory.create(name, path)
    grid = TimeGrid.from_times(path, np.linspace(0.9, 0.1, 31), end=None)
    start = {"pndm": 1, "restart": 8}.get(name, 0)
    fewer = {"bdia": 0, "belm": 0}.get(name, 0)
    assert sampler.plan(grid=grid).nfe == 30 * sampler.calls_per_step + start - fewer


def test_the_conditions_of_order_find_wrong_tableaux():
    assert {name: tableau.order for name, tableau in BUTCHER.items()} == {
        "euler": 1, "midpoint": 2, "heun2": 2, "ralston2": 2, "heun3": 3, "kutta3": 3, "ralston3": 3, "ssprk3": 3,
        "bogacki_shampine": 3, "rk4": 4, "rk38": 4, "ralston4": 4, "dormand_prince": 4,
    }  # fmt: skip
    assert ButcherTableau(((), (0.5,)), (0.5, 0.5)).order == 1
    for bad in ("rk5", {"a": [[], [1.0]]}, {"a": [[], [1.0]], "b": [1.0]}, {"a": [[], [1.0]], "b": [0.3, 0.3]}, 7):
        with pytest.raises(ConfigurationError):
            SamplerFactory.create("runge_kutta", tableau=bad)


@pytest.mark.parametrize(
    "given",
    [
        {"a": [[], torch.tensor([0.5])], "b": torch.tensor([0.0, 1.0], requires_grad=True)},
        {"a": [torch.tensor([]), [torch.tensor(0.5, requires_grad=True)]], "b": [torch.tensor([0.0]), 1]},
        {"a": [[], [np.array([0.5])]], "b": np.array([0.0, 1.0])},
        ButcherTableau(((), (torch.tensor(0.5, requires_grad=True),)), torch.tensor([0.0, 1.0])),
    ],
)
def test_a_tableau_of_tensors_and_arrays_is_one_of_numbers(given, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tableau = ButcherTableau.of(given)
        plan = SamplerFactory.create("runge_kutta", tableau=given).plan(3)
        plan.save(tmp_path / "plan.json")
    assert tableau == BUTCHER["midpoint"]
    assert hash(tableau) == hash(BUTCHER["midpoint"])
    assert SamplingPlan.load(tmp_path / "plan.json") == plan
    assert np.array_equal(plan.b, SamplerFactory.create("runge_kutta", tableau="midpoint").plan(3).b)


@pytest.mark.parametrize(
    "bad",
    [
        torch.tensor([1.0]), {"a": [[], [math.nan]], "b": [0.0, 1.0]}, {"a": [[], [math.inf]], "b": [1.0, 0.0]},
        {"a": [[], [1j]], "b": [0, 1]}, {"a": torch.zeros(2, 2), "b": torch.tensor([0.0, 1.0])}, {"a": None, "b": 1},
    ],
)  # fmt: skip
def test_a_tableau_that_is_not_one_is_refused(bad):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError, match="tableau"):
            SamplerFactory.create("runge_kutta", tableau=bad)


@pytest.mark.parametrize("name", list(EXPONENTIAL))
def test_exponential_weights_become_a_tableau_of_the_same_order(name):
    """At L = 0 an exponential method is an ordinary one."""
    method = EXPONENTIAL[name]
    rows = []
    for c, weights in zip([*method.c[1:], 1.0], method.weights, strict=True):
        others = list(weights(0.0))
        rows.append((c - sum(others), *others))
    stages = tuple((*row, *[0.0] * (k + 1 - len(row))) for k, row in enumerate(rows))
    tableau = ButcherTableau(((), *stages[:-1]), stages[-1])
    assert tableau.order == method.order


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_functions(k):
    """The recursion and the series agree with the integral."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    theta = (nodes + 1) / 2
    for z in (-30.0, -2.0, -1.0, -0.999, -1e-8, 0.0, 0.5, 1.0, 1.001, 7.0):
        integral = float(np.sum(weights / 2 * np.exp((1 - theta) * z) * theta ** (k - 1))) / float(np.prod(range(1, k)))
        assert phi(k, z) == pytest.approx(integral, rel=1e-9)


def test_stage_noise_of_one_brownian_motion():
    """SEEDS: the variance of all noise together is that of the whole step, however many stages share it."""
    for stages in (2, 3):
        plan = SamplerFactory.create("seeds", EDMPath(), stages=stages).plan(6)
        one = SamplerFactory.create("dpmpp_2m_sde", EDMPath(), order=1).plan(6)
        ends = [i for i in range(len(plan)) if i + 1 == len(plan) or plan.step[i + 1] != plan.step[i]]
        C = plan.canonical()[2]
        starts = [0, *(end + 1 for end in ends[:-1])]
        fresh = [np.square(C[end + 1, start : end + 1]).sum() for start, end in zip(starts, ends, strict=True)]
        np.testing.assert_allclose(np.sqrt(fresh)[:-1], one.c[:-1, 0], rtol=1e-9)


def test_options_are_checked_by_kind():
    for name, bad in [
        ("ddim", {"eta": -1}), ("ddim", {"eta": "much"}), ("unipc", {"order": 0}), ("unipc", {"order": 2.5}),
        ("unipc", {"corrector": 1}), ("unipc", {"solver_type": "bh3"}), ("heun", {"afs": 1}), ("heun", {"eta": 1.0}),
        ("seeds", {"stages": 4}), ("tcd", {"eta": 1.5}), ("ipndm_v", {"solver_type": "as_published"}),
    ]:  # fmt: skip
        with pytest.raises(ConfigurationError) as caught:
            SamplerFactory.create(name, EDMPath(), **bad).plan(8)
        assert caught.value.where == next(iter(bad)) or name == "ipndm_v"
        assert caught.value.suggestion


def test_restart_goes_up_and_down_again():
    plan = SamplerFactory.create("restart", EDMPath(), restarts=2, t_min=0.3, t_max=3.0).plan(12)
    ups = int((np.diff(plan.sigma[np.array([*plan.asked, True])]) > 0).sum())
    assert ups == 2
    assert plan.steps == 12 + 2 * 4
    with pytest.raises(ConfigurationError, match="no interval"):
        SamplerFactory.create("restart", EDMPath(), t_min=1.0, t_max=1.01).plan(5)


#: Samplers that equal no other one; what flow_map equals is in test_two_times.py.
ALONE = {
    "heun", "pndm", "ddpm", "restart", "predictor_corrector", "dpm_fast", "flow_heun", "flow_map", "bdia", "belm",
    "res_3s",
}  # fmt: skip


def test_relations_cover_every_family():
    named = {name for pair in RELATIONS for name, _ in pair}
    unknown = set(WRITERS) - named - ALONE
    assert not unknown, f"say in RELATIONS what {unknown} equal, or list them in ALONE"
    assert len({tuple(map(str, itertools.chain(*pair))) for pair in RELATIONS}) == len(RELATIONS)
    assert torch.get_default_dtype() == torch.float32
