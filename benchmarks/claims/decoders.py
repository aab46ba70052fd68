"""What is claimed of the decoders of masked autoencoders, in each modality that has a preset ``fast``."""

from __future__ import annotations

from typing import Any

from claims.claim import Claim
from claims.pointcloud import CAD, FEW

ALL, FAST = "four blocks over all tokens", "decoder of the preset fast"


def decoders(name: str, **more: Any) -> Claim:
    """One encoder under two decoders, at equal steps and seconds.

    Args:
        name: of the system.
        more: of the claim.
    """
    config = {"system": name, "preset": "fast", "steps": 300, "schedule": "constant", "probe_every": 60}
    return Claim(
        text="Half of the hidden tokens, asked by one light block of cross-attention, teach an encoder as "
        "much in as many steps as all of them in four blocks as wide as the encoder "
        "(CrossMAE, arXiv 2401.14391)",
        config={**config, "batch_size": 32, **more.pop("config")},
        variants={ALL: {"decoder": "self", "decode_share": 1.0, **DEEP}, FAST: {}},
        rows={ALL: 32, FAST: 32},
        about=(FAST,),
        **more,
    )


DEEP = {"decoder_dim": 192, "decoder_depth": 4, "decoder_heads": 3}

CLAIMS: dict[str, Claim] = {
    "vision/mae-fast": decoders("vision/mae", config={"data": "vision/fashion", "tokenizer.patch_size": 7}),
    "pointcloud/mae-fast": decoders(
        "pointcloud/mae", config={"data": CAD, "tokenizer.groups": 32}, probe=FEW, measure="linear"
    ),
    "audio/mae-fast": decoders("audio/mae", config={"data": "audio/words"}),
}
