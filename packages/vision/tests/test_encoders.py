"""Our encoders are timm's on whole grids, and on subsets see what they are given and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import timm.models
import torch
from torch import Tensor, nn

from polymask import UserError
from polymask.nn.positions import coordinates
from polymask_vision.encoders import Swin, ViT
from polymask_vision.tokenizers import Patches

CHANNELS, PATCH, SIZE = 3, 4, (16, 24)
GRID = (4, 6)


def vit(**options: Any) -> ViT:
    torch.manual_seed(0)
    options = {"in_dim": CHANNELS * PATCH**2, "grid": GRID, "dim": 32, "depth": 2, "heads": 4, **options}
    return shaken(ViT(**options)).eval()


def swin(**options: Any) -> Swin:
    torch.manual_seed(0)
    options = {
        "in_dim": CHANNELS * PATCH**2,
        "grid": (8, 12),
        "dim": 16,
        "depths": (2, 2),
        "heads": (2, 4),
        **options,
    }
    return shaken(Swin(**{"window": 4, **options})).eval()


def shaken(module: Any) -> Any:
    """Off initial values that hide mistakes (0, 1)."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def kernels(state: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = state["patch_embed.proj.weight"]
    kernel = weight.view(-1, PATCH, PATCH, CHANNELS).permute(0, 3, 1, 2)
    return {**state, "patch_embed.proj.weight": kernel}


def example(size: tuple[int, int] = SIZE, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images, their tokens and positions."""
    tokenizer = Patches(size=size, channels=CHANNELS, patch_size=PATCH)
    batch = tokenizer.example(n)
    tokens = tokenizer(batch)
    return batch["image"], tokens.values, tokens.position


def subset(k: int = 9, n: int = 3) -> tuple[Tensor, Tensor]:
    """Another choice of tokens in every sample, in no order."""
    _, values, position = example(n=n)
    chosen = torch.stack([torch.randperm(values.shape[1])[:k] for _ in range(n)])
    at = chosen[..., None]
    return values.gather(1, at.expand(-1, -1, values.shape[2])), position.gather(1, at.expand(-1, -1, 2))


def check_gradients(module: nn.Module, loss: Tensor) -> None:
    loss.backward()
    without = [
        n
        for n, p in module.named_parameters()
        if p.requires_grad and not (p.grad is not None and p.grad.any())
    ]
    assert not without


def test_norms_behind_the_shortcuts_are_torchs_post_norm_layers() -> None:
    encoder = vit(norm_first=False, positions="none", class_token=False)
    _, values, position = example()
    x = encoder.vit.norm_pre(encoder.embed(values))
    with torch.no_grad():
        for block in encoder.blocks:
            theirs = nn.TransformerEncoderLayer(
                32, 4, 128, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=False
            )
            for ours, name in (
                (block.attn.qkv, "self_attn.in_proj_"),
                (block.attn.proj, "self_attn.out_proj."),
                *((getattr(block, n), f"{n}.") for n in ("norm1", "norm2")),
                (block.mlp.fc1, "linear1."),
                (block.mlp.fc2, "linear2."),
            ):
                theirs.get_parameter(f"{name}weight").copy_(ours.weight)
                theirs.get_parameter(f"{name}bias").copy_(ours.bias)
            x = theirs(x)
    torch.testing.assert_close(encoder(encoder.embed(values), position), x, rtol=1e-4, atol=1e-5)


def test_norms_behind_the_shortcuts_fit_no_model_of_another_library() -> None:
    encoder, plain = vit(norm_first=False), vit()
    _, values, position = example()
    check_gradients(encoder.train(), (encoder(encoder.embed(values), position) ** 3).sum())
    assert not encoder.exports() and set(plain.exports()) == {"timm", "transformers"}


# --------------------------------------------------------------------------------------------- ViT


@pytest.mark.parametrize("positions", ["sincos", "learned", "none"])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_vit_is_timms(positions: Any, class_token: bool, layer_scale: float | None) -> None:
    ours = vit(positions=positions, class_token=class_token, layer_scale=layer_scale)
    theirs = timm.models.VisionTransformer(
        img_size=SIZE,
        patch_size=PATCH,
        embed_dim=32,
        depth=2,
        num_heads=4,
        num_classes=0,
        class_token=class_token,
        no_embed_class=True,
        global_pool="token" if class_token else "avg",
        fc_norm=False,
        pos_embed="none" if positions == "none" else "learn",
        init_values=layer_scale,
    ).eval()
    theirs.load_state_dict(kernels(ours.vit.state_dict()))
    image, values, position = example()
    torch.testing.assert_close(
        ours(ours.embed(values), position), theirs.forward_features(image), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_the_order_of_tokens_does_not_matter_only_their_place(positions: Any) -> None:
    """On subsets and on the whole grid alike, shared positions or not."""
    encoder = vit(positions=positions)
    for k in (9, 24):
        values, position = subset(k)
        order = torch.randperm(k)
        straight = encoder(encoder.embed(values), position)[:, 1:]
        shuffled = encoder(encoder.embed(values[:, order]), position[:, order])[:, 1:]
        torch.testing.assert_close(shuffled, straight[:, order], rtol=1e-5, atol=1e-5)
        moved = encoder(encoder.embed(values), position[:, order])[:, 1:]
        assert (moved - straight).abs().max() > 1e-3
    _, values, shared = example()
    assert shared.stride(0) == 0
    x = encoder.embed(values)
    assert torch.equal(encoder(x, shared), encoder(x, shared.contiguous()))


def test_what_is_left_out_leaves_no_trace() -> None:
    image, _, _ = example()
    tokenizer = Patches(size=SIZE, channels=CHANNELS, patch_size=PATCH)
    encoder, kept = vit(), torch.tensor([0, 3, 7, 8, 20])
    hidden = torch.ones(24, dtype=torch.bool).index_fill(0, kept, False)
    features = []
    for replace in (0.0, float("nan")):
        tokens = tokenizer({"image": image})
        values = torch.where(hidden[:, None], replace, tokens.values)
        features.append(encoder(encoder.embed(values[:, kept]), tokens.position[:, kept]))
    assert torch.equal(*features)


def test_a_sample_does_not_see_its_neighbours() -> None:
    values, position = subset()
    encoder = vit()
    whole = encoder(encoder.embed(values), position)
    alone = encoder(encoder.embed(values[1:2]), position[1:2])
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_padding_changes_nothing_and_its_content_not_a_bit(class_token: bool) -> None:
    encoder = vit(class_token=class_token)
    values, position = subset(9)
    valid = torch.arange(9).expand(3, -1) < torch.tensor([[9], [5], [2]])
    padded = encoder(encoder.embed(values), position, valid)
    other = torch.where(valid[..., None], values, 7.0)
    changed = encoder(encoder.embed(other), position, valid)
    lead = encoder.prefix
    for row, n in enumerate((9, 5, 2)):
        alone = encoder(encoder.embed(values[row : row + 1, :n]), position[row : row + 1, :n])[0]
        torch.testing.assert_close(padded[row, : lead + n], alone, rtol=1e-5, atol=1e-5)
        assert torch.equal(padded[row, : lead + n], changed[row, : lead + n])


@pytest.mark.parametrize(
    "options", [{}, {"positions": "learned"}, {"layer_scale": 0.1}, {"class_token": False}]
)
def test_gradient_reaches_every_parameter_of_vit(options: dict[str, Any]) -> None:
    encoder = vit(**options)
    values, position = subset()
    check_gradients(encoder, encoder(encoder.embed(values), position).square().sum())


def test_fixed_positions_are_no_parameters_to_train() -> None:
    names = [n for n, p in vit().named_parameters() if not p.requires_grad]
    assert names == ["vit.pos_embed"]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_free_coordinates_and_a_grid_of_the_same_agree(axes: int) -> None:
    grid = (6, 4, 2)[:axes]
    kind = {"in_dim": 5, "dim": 24, "heads": 2}
    fixed, free = vit(grid=grid, **kind), vit(grid=None, **kind)
    state = {name: value for name, value in fixed.state_dict().items() if name != "vit.pos_embed"}
    free.load_state_dict(state)
    position = coordinates(grid).expand(2, -1, -1)
    x = fixed.embed(torch.randn(2, position.shape[1], 5))
    torch.testing.assert_close(free(x, position), fixed(x, position), rtol=1e-5, atol=1e-5)
    assert free.exports() == {}
    assert (free(x, position + 0.5) - free(x, position)).abs().max() > 1e-3


def test_vit_refuses_what_cannot_be() -> None:
    with pytest.raises(UserError, match="not divisible by 5 heads"):
        vit(heads=5)
    with pytest.raises(UserError, match="width divisible by 4, got 30"):
        vit(dim=30, heads=2)
    with pytest.raises(UserError, match="learned positions need tokens on a grid"):
        vit(grid=None, positions="learned")


@pytest.mark.compile
def test_vit_compiles_in_one_graph_on_subsets() -> None:
    encoder = vit()
    values, position = subset()
    whole = example()

    def run(values: Tensor, position: Tensor) -> Tensor:
        return encoder(encoder.embed(values), position)

    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for v, p in ((values, position), whole[1:]):
        torch.testing.assert_close(compiled(v, p), run(v, p), rtol=1e-5, atol=1e-5)


def test_vit_under_bfloat16_autocast_stays_close() -> None:
    encoder = vit()
    values, position = subset()
    exact = encoder(encoder.embed(values), position)
    # neither positions nor class token may lift the sequence to float32, twice the memory in every block
    seen: list[torch.dtype] = []
    for block in encoder.vit.blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(encoder.embed(values), position)
    assert seen == [torch.bfloat16] * 2
    assert (rough.float() - exact).abs().max() < 0.1 * exact.abs().max()


# -------------------------------------------------------------------------------------------- Swin


@pytest.mark.parametrize(("grid", "window"), [((8, 12), 4), ((8, 8), 2), ((8, 8), 8), ((6, 10), 3)])
def test_swin_is_timms(grid: tuple[int, int], window: int) -> None:
    ours = swin(grid=grid, window=window)
    size = (grid[0] * PATCH, grid[1] * PATCH)
    theirs = timm.models.SwinTransformer(
        img_size=size,
        patch_size=PATCH,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=window,
        num_classes=0,
    ).eval()
    theirs.load_state_dict(kernels(ours.swin.state_dict()))
    image, values, position = example(size)
    features = ours(ours.embed(values), position)
    assert features.shape == (3, grid[0] * grid[1] // 4, ours.out_dim)
    torch.testing.assert_close(features, theirs.forward_features(image).flatten(1, 2), rtol=1e-5, atol=1e-5)


def test_gradient_reaches_every_parameter_of_swin() -> None:
    encoder = swin()
    _, values, position = example((32, 48))
    check_gradients(encoder, encoder(encoder.embed(values), position).square().sum())


def test_swin_refuses_what_cannot_be() -> None:
    encoder = swin()
    _, values, position = example((32, 48))
    x = encoder.embed(values)
    with pytest.raises(ValueError, match="whole grids"):
        encoder(x[:, :-1], position[:, :-1])
    with pytest.raises(ValueError, match="whole grids"):
        encoder(x, position, torch.ones(3, 96, dtype=torch.bool))
    with pytest.raises(UserError, match="2 depths but 1 heads"):
        swin(heads=(2,))
    with pytest.raises(UserError, match="not divisible by 2"):
        swin(grid=(7, 8))
