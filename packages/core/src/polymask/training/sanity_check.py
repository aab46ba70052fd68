"""What cannot work fails before training, and before anything is written."""

from __future__ import annotations

from collections.abc import Sized

import torch

from polymask.data import Dataset, SplitName, collate
from polymask.errors import UserError
from polymask.step import Step
from polymask.supervision import checked, labels_for, with_labels
from polymask.systems.base import System
from polymask.training.losses import wrong_losses, wrong_monitored
from polymask.training.optimiser import parameter_groups

SPLITS: tuple[SplitName, ...] = ("train", "test")


def sanity_check(name: str, system: System, data: Dataset, seed: int = 0) -> None:
    """Run a system forward on two training samples, or on as many as it needs at least.

    Gradients are enabled, so that systems that differentiate in ``forward`` run as they do in training; there
    is no backward pass. Weights, buffers and global generators stay as they are.

    Args:
        name: of the system, for messages.
        system: the system to try.
        data: the data set to train it on.
        seed: of the run.

    Raises:
        UserError: it does not work, with the reason.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            samples = data.split("train")
            if len(samples) == 0:
                raise UserError("the data set has no training samples")
            ids = list(range(few(system, samples)))
            batch = {**collate([samples[i] for i in ids]), "id": torch.tensor(ids)}
            if data.key not in batch:
                raise UserError(
                    f"the key of this data is {data.key!r}, and its samples have {', '.join(batch)}"
                )
            for split in SPLITS:
                if (labels := data.labels(split)) is not None and len(labels):
                    checked(labels, data, split)
            lengths = data.lengths("train") if hasattr(data, "lengths") else None
            if lengths is not None and not _fits(lengths, len(samples)):
                raise UserError(
                    f"lengths of this data are {lengths!r:.80}, and must be int64 [{len(samples)}]: the "
                    "length of each sample of a split, or None"
                )
            system.eval()
            batch, first = with_labels(batch, labels_for(system, data, "train")), Step(0, 1, seed)
            wrong = wrong_losses(losses := system(batch, first))
            if not wrong:
                with torch.no_grad():
                    wrong = wrong_monitored(system.monitor(batch, first), losses)
            if wrong:
                raise TypeError(wrong)
            parameter_groups(system, 0.0)
    except UserError:
        raise
    except KeyboardInterrupt as stop:
        stop.add_note(f"stopped while {name} was tried on two samples")
        raise
    # Whatever goes wrong here is about these parts together on this data, and nothing is lost yet.
    except BaseException as error:
        raise UserError(
            f"{name} does not run with these parts on this data: {type(error).__name__}: {error}\n"
            "POLYMASK_DEBUG=1 shows where"
        ) from error
    finally:
        system.train()


def few(system: System, samples: Sized) -> int:
    """How many samples a system is tried on: two, or as many as it needs at least."""
    return min(max(2, system.least_batch), len(samples))


def _fits(lengths: object, n: int) -> bool:
    """Whether they are the lengths of so many samples."""
    if not isinstance(lengths, torch.Tensor) or lengths.is_floating_point() or lengths.shape != (n,):
        return False
    return bool((lengths >= 0).all())
