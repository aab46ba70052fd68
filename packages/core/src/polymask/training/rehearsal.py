"""A rehearsal: what cannot work fails before training, and before anything is written."""

from __future__ import annotations

import torch

from polymask.data import Dataset, collate
from polymask.errors import UserError
from polymask.protocols import System
from polymask.step import Step


def rehearse(name: str, system: System, data: Dataset, seed: int = 0) -> None:
    """Run a system forward on two samples, or as many as it takes.

    Neither weights, buffers nor global generators change.

    Args:
        name: of the system, for messages.
        system: what to try.
        data: what it is to be trained on.
        seed: of the run.

    Raises:
        UserError: it does not work, with the reason.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            samples = data.split("train")
            if len(samples) == 0:
                raise UserError("the data set has no training samples")
            ids = list(range(min(max(2, system.least_batch), len(samples))))
            batch = {**collate([samples[i] for i in ids]), "id": torch.tensor(ids)}
            system.eval()
            system(batch, Step(0, 1, seed))
    except UserError:
        raise
    # Whatever goes wrong here is about these parts together on this data, and nothing is lost yet.
    except Exception as error:
        raise UserError(
            f"{name} does not run with these parts on this data: {type(error).__name__}: {error}\n"
            "POLYMASK_DEBUG=1 shows where"
        ) from error
    finally:
        system.train()
