"""Frozen networks look at each image once."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from polymask import Tokens, UserError
from polymask_vision import feature_cache
from polymask_vision.feature_cache import content
from polymask_vision.relations import Relations
from polymask_vision.targets import Teacher
from polymask_vision.tokenizers import Patches

patches = Patches(size=(8, 8), channels=3, patch_size=4)


def images(first: int, n: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(20, 3, 8, 8, generator=generator)[first : first + n],
        "id": torch.arange(first, first + n),
    }


def teacher(kind: Any = Teacher, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    made = kind(model="test_vit", pretrained=False, **options)
    made.calls = 0

    def count(*_: Any) -> None:
        made.calls += 1

    made.network.module.register_forward_hook(count)
    return made


def looks(made: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    if isinstance(made, Teacher):
        tokens, attention = made.look(batch, patches(batch))
        others = [attention]
    else:
        tokens, others = made.relate(batch, patches(batch), (1, 3))
    assert isinstance(tokens, Tokens) and tokens.prefix is not None
    return [tokens.values, tokens.prefix, *others]


@pytest.mark.parametrize("kind", [Teacher, Relations])
def test_what_was_seen_is_read_bit_for_bit(kind: Any, tmp_path: Path) -> None:
    plain, keeping = teacher(kind), teacher(kind, cache=str(tmp_path))
    first = [looks(keeping, images(i)) for i in (0, 4)]
    assert keeping.calls == 2
    for i, found in zip((0, 4), first, strict=True):
        assert all(map(torch.equal, found, looks(plain, images(i))))
    # in another order and company, in this process and in the next
    mixed = {"image": images(0, 8)["image"].flip(0)[1:6], "id": torch.arange(5)}
    expected = [torch.cat([a, b]).flip(0)[1:6] for a, b in zip(*first, strict=True)]
    assert all(map(torch.equal, looks(keeping, mixed), expected)) and keeping.calls == 2
    del keeping
    gc.collect()
    again = teacher(kind, cache=str(tmp_path))
    assert all(map(torch.equal, looks(again, mixed), expected)) and again.calls == 0
    looks(again, images(6))
    assert again.calls == 1  # half of these are new
    looks(again, images(8, 2))
    assert again.calls == 1


def test_other_weights_questions_and_images_are_not_mistaken(tmp_path: Path) -> None:
    looks(teacher(cache=str(tmp_path)), images(0))
    for options in ({"seed": 1}, {"norm": "l2"}, {"layers": (1, 2)}, {"mean": (0.5,) * 3, "std": (0.5,) * 3}):
        other, plain = teacher(cache=str(tmp_path), **options), teacher(**options)
        assert all(map(torch.equal, looks(other, images(0)), looks(plain, images(0)))) and other.calls == 1
    changed = images(0)
    changed["image"] = changed["image"].clone()
    changed["image"][2, 1, 3, 3] += 1e-6
    same = teacher(cache=str(tmp_path))
    looks(same, images(0))
    assert same.calls == 0
    looks(same, changed)
    assert same.calls == 1


def test_a_kill_between_rows_and_keys_loses_rows_and_no_more(tmp_path: Path) -> None:
    kept = looks(teacher(cache=str(tmp_path)), images(0, 6))
    gc.collect()
    (keys,) = tmp_path.glob("*/*/keys")
    keys.write_bytes(keys.read_bytes()[: 4 * 16 + 3])
    again = teacher(cache=str(tmp_path))
    assert all(map(torch.equal, looks(again, images(0)), [x[:4] for x in kept])) and again.calls == 0
    looks(again, images(4, 2))
    assert again.calls == 1
    assert all(map(torch.equal, looks(again, images(0)), [x[:4] for x in kept])) and again.calls == 1
    assert keys.stat().st_size == 6 * 16


def test_several_holders_in_a_process_share_what_is_kept(tmp_path: Path) -> None:
    one, two = teacher(cache=str(tmp_path)), teacher(cache=str(tmp_path))
    looks(one, images(0))
    looks(two, images(0))
    looks(two, images(4))
    looks(one, images(4))
    assert (one.calls, two.calls) == (1, 1)


def test_images_that_change_each_time_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "LATER_VIEWS", 10)
    made, batch = teacher(cache=str(tmp_path)), images(0)
    looks(made, batch)
    batch["image"] = batch["image"] + 1
    for _ in range(2):
        looks(made, batch)
    batch["image"] = batch["image"] + 1
    looks(made, batch)
    batch["image"] = batch["image"] + 1
    with pytest.warns(UserWarning, match="changes them each time.*--data.augment none"):
        looks(made, batch)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        looks(teacher(cache=str(tmp_path / "file")), images(0))


@pytest.mark.parametrize("damage", ["flipped", "emptied", "cut"])
def test_what_is_damaged_is_computed_again_and_told(tmp_path: Path, damage: str) -> None:
    plain, keeping = looks(teacher(), images(0)), teacher(cache=str(tmp_path))
    looks(keeping, images(0))
    (path,) = tmp_path.rglob("rows")
    bits = bytearray(path.read_bytes())
    bits[40] ^= 255
    path.write_bytes({"flipped": bytes(bits), "emptied": b"", "cut": bytes(bits[: len(bits) // 5])}[damage])
    del keeping
    gc.collect()
    again = teacher(cache=str(tmp_path))
    with pytest.warns(UserWarning, match=r"kept is damaged, and computed again"):
        assert all(map(torch.equal, looks(again, images(0)), plain))
    assert all(map(torch.equal, looks(again, images(0)), plain)) and again.calls == 1
    del again
    gc.collect()
    last = teacher(cache=str(tmp_path))
    assert all(map(torch.equal, looks(last, images(0)), plain)) and last.calls == 0


def test_a_damaged_description_is_named(tmp_path: Path) -> None:
    looks(teacher(cache=str(tmp_path)), images(0))
    (path,) = tmp_path.rglob("shapes.json")
    path.write_text("[[1")
    gc.collect()
    with pytest.raises(UserError, match=r"shapes.json is damaged .* delete .* to have it computed again"):
        looks(teacher(cache=str(tmp_path)), images(0))


def test_rows_are_not_written_through_memory(tmp_path: Path) -> None:
    """A process that writes to mapped memory of a file on a full disk is ended by the system."""
    keeping = teacher(cache=str(tmp_path))
    looks(keeping, images(0))
    (store,) = keeping.cache.stores.values()
    assert len(store.rows) and not store.rows.flags.writeable


def test_each_value_and_its_place_count() -> None:
    x = torch.randn(1000, 1, 2, 2)
    assert len(content(x).unique()) == 1000
    assert len(content(torch.eye(64).view(64, 1, 8, 8)).unique()) == 64
    assert torch.equal(content(x[:3]), content(x.clone())[:3])
