"""Attributes of models are found where PyTorch finds them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from noise_scheduler_sampling_system.running.model_attributes import attribute


class Module(nn.Module):
    of_class = 1

    def __init__(self):
        super().__init__()
        self.of_object = 2
        self.parameter, self.layer = nn.Parameter(torch.zeros(1)), nn.Linear(1, 1)
        self.register_buffer("buffer", torch.zeros(1))

    @property
    def computed(self):
        return self.of_object


class WithSearch(Module):
    def __getattr__(self, name):
        return "found" if name == "config" else super().__getattr__(name)


class WithFirstSearch(Module):
    def __getattribute__(self, name):
        return "found" if name == "config" else super().__getattribute__(name)


class BeforeInit(nn.Module):
    def __init__(self):
        pass


@pytest.mark.parametrize("model", [Module(), WithSearch(), WithFirstSearch(), BeforeInit(), lambda x, t: x, 3])
@pytest.mark.parametrize(
    "name", ["of_class", "of_object", "computed", "parameter", "layer", "buffer", "forward", "training", "config"]
)
def test_an_attribute_is_that_of_getattr(model, name):
    nothing = object()
    assert attribute(model, name, nothing) == getattr(model, name, nothing)
    assert attribute(model, name) == getattr(model, name, None)


def test_an_attribute_that_is_set_later_is_found():
    model = Module()
    assert attribute(model, "config") is None
    model.config = {"in_channels": 1}
    assert attribute(model, "config") is model.config
