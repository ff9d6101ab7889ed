"""Files of others: too large, too deep, tampered with, half written."""

from __future__ import annotations

import itertools
import json
import time

import numpy as np
import pytest

from noise_scheduler_sampling_system import (
    AdvancedDiffusionSystem,
    DiffusionPipeline,
    FileError,
    NoiseSamplingError,
    NoiseSchedulerConfig,
    NumericsError,
    PlanSet,
    SamplerFactory,
    SamplingPlan,
)
from noise_scheduler_sampling_system.config.registries import SAMPLERS
from noise_scheduler_sampling_system.support.data_files import read_table, write_table


def doubled(levels: int, start: str, line: str) -> str:
    """Anchors a, b, c, ..., each ten times the one before."""
    names = "abcdefghijkl"[: levels + 1]
    lines = [f"a: &a {start}"]
    for before, name in itertools.pairwise(names):
        lines.append(f"{name}: &{name} " + line.format(",".join([f"*{before}"] * 10)))
    return "\n".join([*lines, f"p: {{beta_start: *{names[-1]}}}"])


BOMBS = {
    "aliases.yaml": doubled(9, "[1]", "[{}]"),
    "merges.yaml": doubled(9, "{k: 1}", "{{<<: [{}]}}"),
    "itself.yaml": "p: &a [*a]",
    "merged-itself.yaml": "p: &a {<<: *a}",
    "long.yaml": "p: {beta_start: " + "x" * 3_000_000 + "}",
    "larger.yaml": "p: {beta_start: " + "x" * 5_000_000 + "}",
    "long.json": '{"p": {"beta_start": "' + "x" * 5_000_000 + '"}}',
    "quoted.json": '{"p": {"beta_start": "' + "x" * 90_000 + '"}}',
    "deep.yaml": "p: " + "[" * 100_000,
    "indented.yaml": "\n".join(" " * i + "-" for i in range(1000)),
    "deep.json": '{"p":' + "[" * 100_000,
    "deeper.json": '{"p":' * 900 + "1" + "}" * 900,
    "keys.yaml": "".join(f"k{i}: {{}}\n" for i in range(20_000)),
    "keys.json": json.dumps({f"k{i}": {} for i in range(20_000)}),
    "settings.yaml": "p:\n" + "".join(f"  k{i}: 1\n" for i in range(20_000)),
    "twice.json": "{" + ",".join(f'"k{i}": 1' for i in range(20_000)) + ', "k19999": 1}',
    "name.json": json.dumps({"a_" * 20_000: {}}),
    "betas.yaml": "p:\n  trained_betas: [" + ", ".join(["0.001"] * 100_000) + "]\n",
    "many.json": '{"p": [' + ",".join(["[]"] * 5_000_000) + "]}",
    "time.yaml": "p: {beta_start: !!timestamp foo}",
    "whole.yaml": 'p: {beta_start: !!int ""}',
    "truth.yaml": "p: {beta_start: !!bool foo}",
    "sixties.yaml": "p: {beta_start: " + ":".join(["59"] * 600) + ".5}",
    "hexadecimal.yaml": "p: {steps_offset: 0x" + "f" * 5000 + "}",
    "digits.json": '{"p": {"steps_offset": ' + "9" * 4000 + "}}",
    "more-digits.json": '{"p": {"steps_offset": ' + "9" * 5000 + "}}",
    "half.json": '{"\\ud800": {}}',
    "list.yaml": "p: !!seq foo",
    "map.yaml": "p: !!map foo",
    "set.yaml": "p: !!set {a, b}",
    "tag.yaml": "p: !" + "x" * 3000 + " 1",
    "alias.yaml": "p: *" + "x" * 300_000,
    "same.yaml": '1: {}\n"1": {}\n',
    "empty.yaml": '"": {}',
    "empty.json": '{"": {}}',
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_too_much_is_refused_at_once_and_in_short(name, tmp_path):
    path = tmp_path / name
    path.write_text(BOMBS[name])
    start = time.process_time()
    with pytest.raises(NoiseSamplingError, match=name) as raised:
        AdvancedDiffusionSystem(path)
    assert time.process_time() - start < 2.0  # of CPU; half of it is for slower machines
    assert len(str(raised.value)) < 1500


@pytest.mark.parametrize("load", [SamplingPlan.load, PlanSet.load, NoiseSchedulerConfig.load])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"a": [' + "[]," * 2_000_000 + "1]}"]
)
def test_every_reader_of_json_has_the_limits(load, text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(FileError, match=r"file\.json"):
        load(path)


def test_yaml_is_read_as_it_is_meant(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {x: 1e-4, 1: on}\nq: {<<: *b, x: 2}\n2024-01-01: {yes: 1.5}\nr: [*b, *b]\n")
    base = {"x": 1e-4, "1": True}
    expected = {"base": base, "q": {"x": 2, "1": True}, "2024-01-01": {"yes": 1.5}, "r": [base, base]}
    assert read_table(path) == expected
    for name in ("again.yaml", "again.json"):
        write_table(tmp_path / name, expected)
        assert read_table(tmp_path / name) == expected


def test_nothing_is_written_that_cannot_be_read(tmp_path):
    for data in ({"a": ["1"] * 30_000}, {"a": "x" * 200_000}, {"a": 10**400}, {"a": "\ud800"}):
        with pytest.raises(FileError, match="cannot be written"):
            write_table(tmp_path / "a.yaml", data)
    assert not list(tmp_path.iterdir())


# Plans


def plan_of(method: str, **options: object) -> SamplingPlan:
    return SamplerFactory.create(method, NoiseSchedulerConfig(), **options).plan(4)


def changes(plan: SamplingPlan) -> list[tuple[str, object]]:
    """Values that no plan can have, by field."""
    table = {name: np.array(value) for name, value in plan.to_dict().items() if isinstance(value, list) and value}
    noisy = table["c"].copy()
    noisy[2] = 1e30
    falling = table["step"][::-1]
    return [
        *(("prior_scale", value) for value in (7, -1.0, 0, None, float("nan"), float("inf"), "1", True, [1.0])),
        *(("step", value) for value in (None, falling.tolist(), (-table["step"]).tolist(), [0, 1, 2.5, 3], ["0"] * 4)),
        *(("asks", value) for value in ([2, 1, 1, 1], [-1, 1, 1, 1], [1, 1], "all", [None] * 4)),
        *(("noise_key", value) for value in (None, [[-5, 0]] * 4, [[0, 0]] * 4, [[0, -1]] * 4, [[2**70, 0]] * 4)),
        *(("carries", value) for value in (None, "data", ["all"], ["data", "data"], 5)),
        *(
            (name, value)
            for name in ("time", "alpha", "sigma", "a", "b", "raw", "c")
            for value in (None, "x", [[]], {})
        ),
        ("c", noisy.tolist()),
        ("a", (table["a"] * 5).tolist()),
        ("sigma", (-table["sigma"]).tolist()),
        ("alpha", (-table["alpha"]).tolist()),
        *(("input_scale", value) for value in ([0.0] * 4, [-1.0] * 4, [1.0] * 3)),
        *(("log_variance", value) for value in ([[1.0, -1.0]] * 4, [[1.0]] * 4)),
        *(("noise_span", value) for value in ([[0.0, 2.0]] * 4, [[-1.0, 0.0]] * 4)),
        *(("space", value) for value in ("x", None, 3, ["sample"])),
        *(("order", value) for value in (-1, 1.5, None, "1", 10**30)),
        *(("sampler", value) for value in ("", None, 5)),
        *((name, value) for name in ("options", "provenance") for value in (None, [], "x")),
    ]


CHANGES = changes(plan_of("ancestral"))


@pytest.mark.parametrize("hashed", [True, False], ids=["hashed", "by hand"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: f"{change[0]}={str(change[1])[:20]}")
def test_a_field_that_no_plan_can_have_is_refused(change, hashed, tmp_path):
    """Also in a file without a hash, as earlier versions wrote it."""
    data = {**plan_of("ancestral").to_dict(), change[0]: change[1]}
    if not hashed:
        del data["content_hash"]
        data["format"] = 3
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(FileError, match=r"plan\.json"):
        SamplingPlan.load(path)
    for name, entry in {"set.json": {"format": "sampling plans 1", "plans": {"4": data}}, "one.json": data}.items():
        (tmp_path / name).write_text(json.dumps(entry))
        with pytest.raises(FileError, match=name):
            PlanSet.load(tmp_path / name)


def test_one_changed_number_shows_in_the_hash(tmp_path):
    plan = plan_of("ddim")
    data = plan.to_dict()
    for name, value in data.items():
        if name in ("format", "content_hash"):
            continue
        changed = {"prior_scale": 1.0 + 1e-15, "carries": ["data"], "space": "v_prediction", "sampler": "other",
                   "order": 2, "options": {"eta": 0.5}, "provenance": {"by": "me"}}.get(name)  # fmt: skip
        if isinstance(value, list) and name != "carries":
            column = np.array(value)
            column.flat[-1] += 1
            changed = column.tolist()
        if value is None:
            changed = {"asks": [1] * 4, "noise_span": [[0.0, 1.0]] * 4, "log_variance": [[0.0, 1.0]] * 4}.get(
                name, [1.0] * 4
            )
        with pytest.raises((FileError, NumericsError)) as raised:
            SamplingPlan.from_dict({**data, name: changed})
        assert plan.content_hash in str(raised.value), name
    path = tmp_path / "plan.json"
    by_hand = {name: value for name, value in data.items() if name != "content_hash"}
    path.write_text(json.dumps({**by_hand, "sampler": "mine"}))
    mine = SamplingPlan.load(path)
    mine.save(path)
    assert json.loads(path.read_text())["content_hash"] == mine.content_hash != plan.content_hash


def test_the_hash_is_the_same_everywhere():
    plan = SamplingPlan(
        space="sample", time=[500], alpha=[0.6, 1], sigma=[0.8, 0], step=[0], a=[-0.0], b=[[1]], raw=[0], c=[[0]],
        noise_key=[[-1, -1]], options={"stages": (1, 2.5, True), "none": None}, provenance={"é": [np.float64(0.1)]},
    )  # fmt: skip
    assert plan.content_hash == "54bcbee81effc5d4250795fa6db39f6702f3d66766953709ebf1b0b0c912ec1b"
    assert SamplingPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("method", sorted(SAMPLERS))
def test_no_plan_of_the_library_is_refused(method, tmp_path):
    if method == "adaptive":
        pytest.skip("it has no plan")
    pipeline = DiffusionPipeline(NoiseSchedulerConfig(), method)
    for number, ending in ((12, "json"), (7, "safetensors")):
        plan, path = pipeline.plan(number), tmp_path / f"plan.{ending}"
        plan.save(path)
        again = SamplingPlan.load(path)
        assert again == plan
        assert again.content_hash == plan.content_hash
