"""Keyed noise: the documented algorithm, its independence from how it is drawn, and its distribution."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from noise_scheduler_sampling_system import ConfigurationError, DiffusionPipeline
from noise_scheduler_sampling_system.running.noise import NoiseSource, resolve_keys
from noise_scheduler_sampling_system.running.noise_keys import Keys

SHAPES = [(1,), (3, 8, 8), (4095,), (4096,), (4, 64, 64)]


def noise(seed: Any, shape: tuple[int, ...], batch: int, step: int = 0, stage: int = 0, **kinds: Any) -> Tensor:
    return NoiseSource(resolve_keys(seed, None, batch), shape, **kinds)(step, stage)


# ------------------------------------------------------------------------------- the documented algorithm


def by_the_document(seed: int, index: int, step: int, stage: int, shape: tuple[int, ...]) -> np.ndarray:
    """Row i mod g of the g×d normal numbers of key (seed, ⌊i/g⌋), counter (0, 0, stage, step + 1)."""
    d = math.prod(shape)
    g = max(1, 4096 // d)
    key = np.array([seed, index // g], dtype=np.uint64)
    counter = np.array([0, 0, stage, step + 1], dtype=np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.standard_normal((g, d), dtype=np.float32)[index % g].reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**64 - 1])
@pytest.mark.parametrize(("step", "stage"), [(-1, 0), (0, 0), (7, 2), (999, 0)])
def test_noise_is_the_documented_algorithm(seed, step, stage, shape):
    drawn = noise(seed, shape, 3, step, stage)
    assert drawn.dtype == torch.float32
    for i in range(3):
        np.testing.assert_array_equal(drawn[i].numpy(), by_the_document(seed, i, step, stage, shape))


@pytest.mark.parametrize("shape", [(1,), (2,), (3, 4), (96,)])
def test_many_generators_at_once_are_the_documented_algorithm(shape):
    """A seed for each of 3,000 samples: some numbers need a second try, and some come from the tail."""
    seeds = np.random.default_rng(5).integers(0, 2**63, 3000).tolist()
    drawn = noise(seeds, shape, len(seeds), 11, 3)
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(drawn[i].numpy(), by_the_document(seed, 0, 11, 3, shape))
    assert math.prod(shape) < 96 or drawn.abs().max() > 3.66  # beyond the last layer of the ziggurat


def test_many_generators_of_several_samples_each():
    """Two samples of 120 seeds, in mixed order, and the same samples by themselves."""
    keys = Keys.of([(seed, index) for index in (1, 0) for seed in range(120)])
    together = NoiseSource(keys, (5, 4))(2, 0)
    for i, key in enumerate(keys):
        assert torch.equal(together[i], NoiseSource(Keys.of([key]), (5, 4))(2, 0)[0])


def test_initial_noise_is_that_of_step_minus_one():
    source = NoiseSource(resolve_keys(3, None, 2), (2, 5))
    assert torch.equal(source.initial(), source(-1, 0))
    assert not torch.equal(source.initial(), source(0, 0))


#: Of seed 17: the first two numbers of samples 0 and 2 of shape (3, 4), initially and at step 5, stage 1.
VECTORS = {
    (-1, 0): [[-0.16804702579975128, -0.8491909503936768], [1.450689673423767, 0.42217907309532166]],
    (5, 1): [[-0.24394448101520538, -1.4959794282913208], [-0.9055129289627075, -0.2492133378982544]],
}


@pytest.mark.parametrize("key", VECTORS)
def test_vectors(key):
    """Stored numbers: another version of NumPy, or another machine, gives the same."""
    drawn = noise(17, (3, 4), 3, *key)
    assert [drawn[i].flatten()[:2].tolist() for i in (0, 2)] == VECTORS[key]


# ------------------------------------------------------------------------------- independence from the drawing


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    batch=st.integers(1, 20),
    size=st.sampled_from([(2,), (3, 5), (700,), (5000,)]),
    step=st.integers(-1, 1000),
    data=st.data(),
)
def test_a_sample_does_not_depend_on_the_batch_it_is_drawn_in(seed, batch, size, step, data):
    whole = noise(seed, size, batch, step)
    source = NoiseSource(resolve_keys(seed, None, batch), size)
    start = data.draw(st.integers(0, batch - 1))
    stop = data.draw(st.integers(start + 1, batch))
    assert torch.equal(source.part(start, stop)(step, 0), whole[start:stop])
    longer = noise(seed, size, batch + 3, step)
    assert torch.equal(longer[:batch], whole)


@pytest.mark.parametrize("shape", SHAPES)
def test_far_samples_are_drawn_directly(shape):
    source = NoiseSource(((5, 10**9), (5, 3)), shape)
    np.testing.assert_array_equal(source(2, 0)[0].numpy(), by_the_document(5, 10**9, 2, 0, shape))
    np.testing.assert_array_equal(source(2, 0)[1].numpy(), by_the_document(5, 3, 2, 0, shape))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_only_rounds_the_same_numbers(dtype):
    wide = noise(1, (3, 8), 2)
    drawn = noise(1, (3, 8), 2, dtype=dtype)
    assert drawn.dtype == dtype
    assert torch.equal(drawn, wide.to(dtype))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_sample_of_a_seed_list_is_the_first_of_its_seed(shape):
    listed = noise([7, 3, 7], shape, 3)
    assert torch.equal(listed[0], noise(7, shape, 1)[0])
    assert torch.equal(listed[1], noise(3, shape, 5)[0])
    assert torch.equal(listed[2], listed[0]), "the same seed twice is the same sample twice"
    assert not torch.equal(listed[0], listed[1])


def test_threads_draw_the_same(monkeypatch):
    shape = (4, 64, 64)
    threaded = noise(9, shape, 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert torch.equal(noise(9, shape, 8), threaded)
    source = NoiseSource(resolve_keys(9, None, 8), shape)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(drawn, threaded) for drawn in pool.map(lambda _: source(0, 0), range(4)))


def test_every_call_gives_a_tensor_of_its_own():
    source = NoiseSource(resolve_keys(9, None, 2), (3,))
    first = source(0, 0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(source(0, 0), kept)


def test_numpys_global_state_plays_no_part():
    np.random.seed(0)
    first, state = noise(2, (5,), 2), np.random.get_state()[1].copy()
    np.random.seed(1)
    assert torch.equal(noise(2, (5,), 2), first)
    np.random.seed(0)
    noise(2, (5,), 2)
    assert (np.random.get_state()[1] == state).all()


# ------------------------------------------------------------------------------- where seeds come from


def test_a_seed_numbers_its_samples_and_a_list_does_not():
    assert resolve_keys(5, None, 3) == ((5, 0), (5, 1), (5, 2))
    assert resolve_keys([5, 6], None, 2) == ((5, 0), (6, 0))
    assert resolve_keys([5], None, 1) == ((5, 0),)
    for alike in ((5, 6), np.array([5, 6]), torch.tensor([5, 6]), [np.int64(5), np.uint8(6)]):
        assert resolve_keys(alike, None, 2) == ((5, 0), (6, 0))
    for alike in (np.int64(5), torch.tensor(5), np.array(5)):
        assert resolve_keys(alike, None, 2) == ((5, 0), (5, 1))


def test_without_a_seed_one_is_drawn_from_torchs_global_generator():
    torch.manual_seed(0)
    first, second = resolve_keys(None, None, 2), resolve_keys(None, None, 2)
    assert first != second
    torch.manual_seed(0)
    assert resolve_keys(None, None, 2) == first
    assert first[0][0] == first[1][0]


def test_a_drawn_seed_is_the_next_number_of_the_generator_in_every_mode_and_thread():
    generator = torch.Generator().manual_seed(7)
    wanted = [int(torch.randint(2**63 - 1, (1,), generator=generator)) for _ in range(4)]
    torch.manual_seed(7)
    with torch.inference_mode(), ThreadPoolExecutor(1) as pool:
        drawn = [resolve_keys(None, None, 1), pool.submit(resolve_keys, None, None, 1).result()]
    drawn.append(resolve_keys(None, None, 2))
    drawn.append(resolve_keys(None, torch.Generator().manual_seed(7), 1))
    assert [keys[0][0] for keys in drawn] == [*wanted[:3], wanted[0]]
    assert int(torch.randint(2**63 - 1, (1,))) == wanted[3]


def drawn_seed() -> int:
    return resolve_keys(None, None, 1)[0][0]


def draw_of_fake_tensors() -> None:
    with FakeTensorMode(), contextlib.suppress(DataDependentOutputException):
        drawn_seed()


def draw_of_meta_tensors() -> None:
    with torch.device("meta"):
        drawn_seed()


#: Programs that draw inside a mode of PyTorch, which may make other tensors there.
MODES = {
    "fake": draw_of_fake_tensors,
    "grad": lambda: torch.func.grad(lambda x: drawn_seed() * 0.0 + x)(torch.zeros(())),
    "functionalize": lambda: torch.func.functionalize(lambda x: drawn_seed() * 0.0 + x)(torch.zeros(1)),
    "meta": draw_of_meta_tensors,
    "inference": torch.inference_mode(drawn_seed),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_seed_is_drawn_after_a_first_draw_inside_a_mode(mode):
    wanted = int(torch.randint(2**63 - 1, (1,), generator=torch.Generator().manual_seed(7)))

    def draws():  # in a new thread, which drew nothing before
        MODES[mode]()
        torch.manual_seed(7)
        return drawn_seed()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(draws).result() == wanted


def test_a_generator_advances_and_repeats():
    generator = torch.Generator().manual_seed(1)
    state = torch.get_rng_state()
    first, second = resolve_keys(None, generator, 2), resolve_keys(None, generator, 2)
    assert first != second
    assert resolve_keys(None, torch.Generator().manual_seed(1), 2) == first
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_a_generator_a_sample():
    def made() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(3)]

    keys = resolve_keys(None, made(), 3)
    assert keys == resolve_keys(None, tuple(made()), 3)
    assert [index for _, index in keys] == [0, 0, 0]
    assert keys[1:2] == resolve_keys(None, made()[1:2], 1), "each sample has its own"


@pytest.mark.parametrize(
    "seed",
    [-1, 2**64, 1.0, "1", True, [1], [1, 2, 3], [1, -1], [1, 1.5], [True, 1], "ab", b"ab", {1, 2}, object(),
     torch.tensor([1.0, 2.0]), np.array([[1, 2], [3, 4]])],
)  # fmt: skip
def test_seeds_that_mean_nothing_are_refused(seed):
    with pytest.raises(ConfigurationError) as raised:
        resolve_keys(seed, None, 2)
    assert raised.value.where == "seed"
    assert raised.value.suggestion


@pytest.mark.parametrize("generator", [42, "cpu", [torch.Generator(), 3], np.random.default_rng(0)])
def test_what_is_not_a_generator_is_refused(generator):
    with pytest.raises(ConfigurationError) as raised:
        resolve_keys(None, generator, 2)
    assert raised.value.where == "generator"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_wrong_number_of_generators_is_refused(count):
    with pytest.raises(ConfigurationError, match="batch of 2"):
        resolve_keys(None, [torch.Generator() for _ in range(count)], 2)


def test_seed_and_generator_together_are_refused():
    with pytest.raises(ConfigurationError, match="both given"):
        resolve_keys(1, torch.Generator(), 2)


def test_the_pipeline_is_reproducible_in_torchs_own_way():
    run = DiffusionPipeline(None, "ddpm")

    def draw() -> Tensor:
        return run.sample(lambda x, t: 0.5 * x, (2, 3), 5)

    torch.manual_seed(3)
    first, second = draw(), draw()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(draw(), first)


# ------------------------------------------------------------------------------- distribution


def normal_moments(values: np.ndarray) -> list[tuple[float, float, float]]:
    """(measured, expected, standard error) of the first moments."""
    n = values.size
    return [
        (values.mean(), 0.0, 1 / math.sqrt(n)),
        (values.var(), 1.0, math.sqrt(2 / n)),
        ((values**3).mean(), 0.0, math.sqrt(15 / n)),
        ((values**4).mean(), 3.0, math.sqrt(96 / n)),
    ]


@pytest.mark.parametrize(
    "drawn",
    [
        pytest.param(lambda: noise(0, (16,), 20_000), id="samples"),
        pytest.param(lambda: torch.cat([noise(s, (100, 10), 1) for s in range(300)]), id="seeds"),
        pytest.param(lambda: torch.cat([noise(0, (100, 10), 1, step) for step in range(300)]), id="steps"),
        pytest.param(lambda: torch.cat([noise(0, (100, 10), 1, 0, stage) for stage in range(300)]), id="stages"),
        pytest.param(lambda: noise(list(range(20_000)), (10,), 20_000)[:, 0], id="first number of each seed"),
        pytest.param(lambda: noise(0, (5000,), 2000)[:, -1], id="last number of each sample"),
    ],
)
def test_noise_is_standard_normal(drawn):
    values = drawn().double().numpy().ravel()
    for measured, expected, error in normal_moments(values):
        assert abs(measured - expected) < 4.5 * error
    assert stats.kstest(values[:50_000], "norm").pvalue > 1e-4
    assert np.unique(values).size > 0.98 * values.size


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda: noise(0, (64, 64, 4), 2)[0], lambda: noise(0, (64, 64, 4), 2)[1], id="samples"),
        pytest.param(lambda: noise(0, (16,), 2048)[:-1], lambda: noise(0, (16,), 2048)[1:], id="small samples"),
        pytest.param(lambda: noise(0, (16384,), 1, 4), lambda: noise(0, (16384,), 1, 5), id="steps"),
        pytest.param(lambda: noise(0, (16384,), 1, 4, 0), lambda: noise(0, (16384,), 1, 4, 1), id="stages"),
        pytest.param(lambda: noise(0, (16384,), 1), lambda: noise(1, (16384,), 1), id="seeds"),
        pytest.param(lambda: noise(1, (16384,), 1), lambda: noise(0, (16384,), 2)[1], id="seed and index"),
        pytest.param(lambda: noise(0, (16384,), 1, -1), lambda: noise(0, (16384,), 1, 0), id="initial and first"),
        pytest.param(lambda: noise(0, (16384,), 1)[:, :-1], lambda: noise(0, (16384,), 1)[:, 1:], id="neighbours"),
    ],
)
def test_noises_of_different_keys_are_independent(one, other):
    """Neither the values nor their magnitudes are correlated."""
    a, b = one().double().flatten(), other().double().flatten()
    limit = 4.5 / math.sqrt(a.numel())
    assert abs(float((a * b).mean())) < limit
    assert abs(float((a.square() * b.square()).mean()) - 1) < 8 * limit
    assert not torch.isin(a[:500], b).all()


# ------------------------------------------------------------------------------- keys of large batches


def test_keys_are_a_sequence_of_pairs_equal_to_the_tuple_of_them():
    keys = resolve_keys(5, None, 4)
    pairs = tuple((5, i) for i in range(4))
    assert keys == pairs == tuple(keys)
    assert keys == list(pairs)
    assert keys != pairs[:3]
    assert keys != pairs[::-1]
    assert keys != "keys"
    assert hash(keys) == hash(pairs)
    assert keys[-1] == (5, 3)
    assert keys[1:3] == pairs[1:3]
    assert all(isinstance(number, int) for pair in keys for number in pair)
    for copied in (pickle.loads(pickle.dumps(keys)), copy.deepcopy(keys), Keys.of(pairs)):
        assert copied == keys
    with pytest.raises(ValueError, match="read-only"):
        keys.array[0, 0] = 1
    with pytest.raises(AttributeError):
        keys.array = keys.array
    assert len(repr(resolve_keys(5, None, 10**6))) < 200


def test_a_million_small_samples_are_drawn_group_by_group():
    source = NoiseSource(resolve_keys(5, None, 10**6), (2,))
    assert len(source._groups) == math.ceil(10**6 / 2048)
    np.testing.assert_array_equal(source(3, 0)[999_999].numpy(), by_the_document(5, 999_999, 3, 0, (2,)))


def test_groups_in_any_order():
    pairs = ((9, 1), (5, 10**9), (9, 0), (2**64 - 1, 3), (5, 3), (9, 5000))
    drawn = NoiseSource(pairs, (4,))(2, 1)
    for i, (seed, index) in enumerate(pairs):
        np.testing.assert_array_equal(drawn[i].numpy(), by_the_document(seed, index, 2, 1, (4,)))
