"""What is claimed of the decoders of masked autoencoders, in each modality that has a preset ``fast``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.claim import Claim
from claims.pointcloud import CAD, FEW

OWN, FAST = "mae's own decoder", "decoder of the preset fast"


def decoders(name: str, own: Mapping[str, Any], **more: Any) -> Claim:
    """One encoder under two decoders, at equal steps and seconds.

    Args:
        name: of the system.
        own: sizes of the decoder that its paper has.
        more: of the claim.
    """
    config = {"system": name, "preset": "fast", "steps": 400, "schedule": "constant", "probe_every": 80}
    return Claim(
        text="Half of the hidden tokens, asked by one light block of cross-attention, teach an encoder as "
        "much as all of them in a deep decoder (CrossMAE, arXiv 2401.14391), and sooner",
        config={**config, "batch_size": 32, **more.pop("config")},
        variants={OWN: {"decoder": "self", "decode_share": 1.0, **own}, FAST: {}},
        rows={OWN: 32, FAST: 32},
        about=(FAST,),
        **more,
    )


DEEP = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}

CLAIMS: dict[str, Claim] = {
    "vision/mae-fast": decoders("vision/mae", DEEP, config={"data": "vision/fashion"}),
    "audio/mae-fast": decoders("audio/mae", DEEP, config={"data": "audio/words"}),
    "pointcloud/mae-fast": decoders(
        "pointcloud/mae",
        {"decoder_dim": 384, "decoder_depth": 4, "decoder_heads": 6},
        config={"data": CAD},
        probe=FEW,
        measure="linear",
    ),
}
