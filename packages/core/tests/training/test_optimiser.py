from __future__ import annotations

import pytest
import torch
from torch import nn

from polymask import Step, System, UserError
from polymask.training import TrainOptions
from polymask.training.optimiser import make_optimiser, parameter_groups


class Zoo(System):
    """One parameter of each kind that is treated in its own way."""

    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.composition = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.mask_token = nn.Parameter(torch.zeros(1, 4))
        self.pos_embed = nn.Parameter(torch.zeros(1, 9, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.position_embeddings = nn.Embedding(9, 4)
        self.pos_mlp = nn.Linear(2, 4)
        self.token_embed = nn.Embedding(20, 4)
        self.listed = Listing()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.tied = self.proj


class Listing(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 3))
        self.weight = nn.Parameter(torch.zeros(3, 3))

    def no_weight_decay(self):
        return {"table"}


class Single(System):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.slow = nn.Parameter(torch.ones(2, 2))
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)


def test_what_decays():
    zoo = Zoo()
    decayed, undecayed = parameter_groups(zoo, 0.05)
    name = {id(p): n for n, p in zoo.named_parameters()}
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.05, 0.0)
    assert sorted(name[id(p)] for p in decayed["params"]) == [
        "composition.weight",
        "listed.weight",
        "pos_mlp.weight",
        "proj.weight",
        "token_embed.weight",
    ]
    both = decayed["params"] + undecayed["params"]
    trainable = [p for p in zoo.parameters() if p.requires_grad]
    assert sorted(map(id, both)) == sorted(map(id, trainable))


def test_decay_moves_only_what_decays():
    zoo = Zoo()
    nn.init.ones_(zoo.cls_token)
    before = zoo.proj.weight.detach().clone()
    optimiser, _ = make_optimiser(zoo, TrainOptions(weight_decay=0.5), lr=0.1)
    for parameter in zoo.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    torch.testing.assert_close(zoo.proj.weight.detach(), before * (1 - 0.1 * 0.5))
    assert zoo.cls_token.eq(1).all()


def test_a_step_marked_as_failed_is_left_out():
    system = Single()
    layer = system.layer
    optimiser, _ = make_optimiser(system, TrainOptions(), lr=0.1)
    before = layer.weight.detach().clone()
    for failed in (1.0, 0.0):
        layer.weight.grad = torch.ones(2, 2)
        optimiser.found_inf = torch.tensor(failed)
        optimiser.step()
        assert torch.equal(layer.weight, before) == bool(failed)
        assert optimiser.state[layer.weight]["step"] == 1 - failed


def test_nothing_to_train():
    with pytest.raises(ValueError, match="no trainable parameter"):
        make_optimiser(Single().requires_grad_(False), TrainOptions(), lr=0.1)


def test_a_system_has_groups_of_its_own():
    system = Single()
    system.parameter_groups = lambda: [
        {"params": [system.layer.weight, system.frozen], "weight_decay": 0.7},
        {"params": [system.slow], "lr_scale": lambda step: 1 - step.progress},
    ]
    optimiser, scales = make_optimiser(system, TrainOptions(weight_decay=0.1), lr=0.5)
    rest, own, slow = optimiser.param_groups
    assert [len(group["params"]) for group in (rest, own, slow)] == [1, 1, 1]
    assert rest["params"][0] is system.layer.bias and rest["weight_decay"] == 0
    assert own["params"][0] is system.layer.weight and own["weight_decay"] == 0.7
    assert slow["weight_decay"] == 0.1
    assert scales[:2] == [1.0, 1.0] and scales[2](Step(1, 4)) == 0.75
    assert "lr_scale" not in optimiser.state_dict()["param_groups"][2]


def test_groups_of_a_system_are_spared_too_unless_they_say():
    zoo = Zoo()
    zoo.parameter_groups = lambda: [
        {"params": [*zoo.norm.parameters(), *zoo.proj.parameters(), zoo.pos_embed], "lr_scale": 0.5},
        {"params": [*zoo.composition.parameters(), zoo.cls_token], "weight_decay": 0.2},
    ]
    decay = {id(p): group["weight_decay"] for group in parameter_groups(zoo, 0.05) for p in group["params"]}
    assert decay[id(zoo.proj.weight)] == 0.05
    assert {decay[id(p)] for p in (*zoo.norm.parameters(), zoo.proj.bias, zoo.pos_embed)} == {0}
    assert {decay[id(p)] for p in (*zoo.composition.parameters(), zoo.cls_token)} == {0.2}
    scales = {group.get("lr_scale", 1.0) for group in parameter_groups(zoo, 0.05)}
    assert scales == {0.5, 1.0}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda system: [{"params": [system.slow], "lr": 0.1}], "lr"),
        (lambda system: [{"weight_decay": 0.1}], "weight_decay"),
        (lambda system: [{"params": [system.slow]}, {"params": [system.slow]}], "twice"),
    ],
)
def test_groups_that_cannot_be_are_told(groups, message):
    system = Single()
    system.parameter_groups = lambda: groups(system)
    with pytest.raises(UserError, match=message):
        make_optimiser(system, TrainOptions(), lr=0.1)


def test_rate_betas_and_eps_are_those_asked_for():
    optimiser, _ = make_optimiser(Zoo(), TrainOptions(betas=(0.8, 0.9), eps=1e-6), lr=0.3)
    (found,) = {(group["lr"], group["betas"], group["eps"]) for group in optimiser.param_groups}
    assert found == (0.3, (0.8, 0.9), 1e-6)
