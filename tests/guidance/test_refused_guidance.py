"""What guidance refuses before the first call."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from guided_mixture import (
    CONDITION,
    KINDS,
    LABELS,
    OTHER,
    SHAPE,
    STEPS,
    energy,
    never,
    pipeline,
)
from noise_scheduler_sampling_system import (
    ConfigurationError,
    ModelOutputError,
)
from noise_scheduler_sampling_system.guidance import (
    AdaptiveProjected,
    AutoGuidance,
    CFGZeroStar,
    ClassifierFree,
    Composed,
    DynamicThreshold,
    Energy,
    Interval,
    Rescale,
)

REFUSED: list[tuple[Any, str]] = [
    (lambda: ClassifierFree("7"), "ClassifierFree.scale"),
    (lambda: ClassifierFree(math.nan), "ClassifierFree.scale"),
    (lambda: ClassifierFree(True), "ClassifierFree.scale"),
    (lambda: ClassifierFree(("square", 1, 2)), "ClassifierFree.scale"),
    (lambda: ClassifierFree(("linear", 1, math.inf)), "ClassifierFree.scale"),
    (lambda: Rescale(1.2), "Rescale.phi"),
    (lambda: Rescale(0.5, of="noise_level"), "Rescale.of"),
    (lambda: Interval(2.0, 1.0), "Interval.high"),
    (lambda: Interval(0.0, 1.0, unit="sigmas"), "Interval.unit"),
    (lambda: Interval(math.nan, 1.0), "Interval.low"),
    (lambda: DynamicThreshold(0.0), "DynamicThreshold.ratio"),
    (lambda: DynamicThreshold(1.5), "DynamicThreshold.ratio"),
    (lambda: DynamicThreshold(0.9, smallest=0.0), "DynamicThreshold.smallest"),
    (lambda: DynamicThreshold(0.9, smallest=2.0, largest=1.0), "DynamicThreshold.largest"),
    (lambda: AdaptiveProjected(2.0, eta=math.inf), "AdaptiveProjected.eta"),
    (lambda: AdaptiveProjected(2.0, norm_threshold=0.0), "AdaptiveProjected.norm_threshold"),
    (lambda: AdaptiveProjected(2.0, momentum=-1.0), "AdaptiveProjected.momentum"),
    (lambda: CFGZeroStar(2.0, zero_steps=-1), "CFGZeroStar.zero_steps"),
    (lambda: CFGZeroStar(2.0, of="flows"), "CFGZeroStar.of"),
    (lambda: AutoGuidance(3, 2.0), "model"),
    (lambda: AutoGuidance(lambda x, t: x, None), "AutoGuidance.scale"),
    (lambda: AutoGuidance(lambda x, t: x, 2.0, "epsilons"), "AutoGuidance.prediction_type"),
    (lambda: Composed([]), "Composed.terms"),
    (lambda: Composed({"a": 1}), "Composed.terms"),
    (lambda: Composed([({}, 1.0)]), "Composed.terms"),
    (lambda: Composed([(OTHER, "much")]), "Composed.terms[0]"),
    (lambda: Energy(), "Energy"),
    (lambda: Energy(energy, gradient=energy), "Energy"),
    (lambda: Energy(lambda x: x), "Energy.energy"),
    (lambda: Energy(gradient=3), "Energy.gradient"),
    (lambda: Energy(energy, of="clean"), "Energy.of"),
    (lambda: Energy(energy, of="x", through_model=True), "Energy.through_model"),
]


@pytest.mark.parametrize(("make", "where"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_options_out_of_range_are_refused(make, where):
    with pytest.raises(ConfigurationError) as raised:
        make()
    assert raised.value.where == where
    assert raised.value.suggestion


NULL = {"null_condition": {"class_labels": 3}}


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"guidance": 3.0}, "guidance"),
        ({"guidance": [ClassifierFree]}, "guidance"),
        ({"guidance": ClassifierFree(2.0)}, "guidance"),
        ({"guidance": AdaptiveProjected(2.0)}, "guidance"),
        ({"guidance": [DynamicThreshold(), CFGZeroStar(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": Rescale(0.5)}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [Interval(0, 1), ClassifierFree(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [ClassifierFree(2.0), CFGZeroStar(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": [ClassifierFree(2.0), ClassifierFree(2.0)]}, "guidance"),
        ({**CONDITION, **NULL, "guidance": ClassifierFree(2.0), "guidance_scale": 3.0}, "guidance_scale"),
        ({**CONDITION, **NULL, "guidance": [], "classifier_free_guidance": False}, "classifier_free_guidance"),
        ({**CONDITION, **NULL, "guidance": ClassifierFree(lambda m: math.nan)}, "ClassifierFree.scale at step 0"),
        (
            {**CONDITION, **NULL, "guidance": ClassifierFree(lambda m: 1.0 if m.step < 3 else "a")},
            "ClassifierFree.scale at step 3",
        ),
        ({**CONDITION, **NULL, "guidance": CFGZeroStar(2.0, zero_steps=STEPS)}, "guidance"),
        ({**CONDITION, "guidance": ClassifierFree(2.0)}, "null_condition"),
        ({"guidance": Composed([(OTHER, 1.0)])}, "null_condition"),
        ({**CONDITION, **NULL, "guidance": Composed([({"class_label": LABELS}, 1.0)])}, "condition"),
        ({**CONDITION, **NULL, "guidance": Composed([({"class_labels": torch.ones(7)}, 1.0)])}, "guidance"),
        ({"null_condition": {"class_labels": 3}, "guidance": DynamicThreshold()}, "null_condition"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_call(options, where):
    with pytest.raises(ConfigurationError) as raised:
        pipeline().sample(never, SHAPE, **KINDS, **options)
    assert raised.value.where == where


def test_outputs_of_the_wrong_shape_are_named():
    run = pipeline()
    for wrong in (lambda x, t, **_: torch.cat([x, x], 1), lambda x, t, **_: x[:1], lambda x, t, **_: x[..., None]):
        for guidance in ([ClassifierFree(2.0), Rescale(0.5)], AutoGuidance(wrong, 2.0)):
            with pytest.raises(ModelOutputError, match="returned shape"):
                run.sample(wrong, SHAPE, **KINDS, **CONDITION, **NULL, guidance=guidance)
