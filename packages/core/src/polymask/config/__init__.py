"""Configuration: the options of all parts, where their values come from, and what is built from them.

Nothing here imports torch, so that help, lists and checks of a configuration come at once.
"""

from polymask.config.layers import Source, as_host_preset, relative_to_run
from polymask.config.options import UNSET, Option, options_of
from polymask.config.resolve import Resolved, resolve_part, resolve_system
from polymask.config.run import CONFIG, RunConfig, build
from polymask.config.training import TrainOptions
from polymask.config.tree import RUN, PartConfig, built_from, plain, resolve_path

__all__ = [
    "CONFIG",
    "RUN",
    "UNSET",
    "Option",
    "PartConfig",
    "Resolved",
    "RunConfig",
    "Source",
    "TrainOptions",
    "as_host_preset",
    "build",
    "built_from",
    "options_of",
    "plain",
    "relative_to_run",
    "resolve_part",
    "resolve_path",
    "resolve_system",
]
