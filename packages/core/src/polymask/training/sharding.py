"""FSDP: weights, gradients and optimiser state shared out among processes."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from polymask.systems.base import System


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2, on any device, all processes along the data; checkpoints are whole files."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def shard(system: System, mesh: DeviceMesh) -> None:
    """Share a system out as one unit, gathered whole for the length of a forward and backward.

    Finer units would save more memory, but a system may reach into its blocks past their
    ``forward``, where nothing gathers their weights.
    """
    fully_shard(system, mesh=mesh["data_parallel"])
    register_fsdp_forward_method(system, "encode")
