"""What is claimed of the light decoder of the preset ``fast``, which mae has in several modalities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from claims.claim import Claim

FULL, FAST = "four blocks over all tokens", "decoder of the preset fast"

# as wide as the encoder of the preset
FULL_DECODER = {
    "decoder": "self",
    "decode_share": 1.0,
    "decoder_dim": 192,
    "decoder_depth": 4,
    "decoder_heads": 3,
}


def light_decoder(system: str, config: Mapping[str, Any], **options: Any) -> Claim:
    """The preset ``fast`` with its own decoder, and with a full one; further options are the claim's."""
    return Claim(
        text="Half of the hidden tokens, asked by one light block of cross-attention, teach an encoder as "
        "much in as many steps as all of them in four blocks as wide as the encoder "
        "(CrossMAE, arXiv 2401.14391)",
        config={**config, "system": system, "preset": "fast"},
        variants={FULL: FULL_DECODER, FAST: {}},
        about=(FAST,),
        **options,
    )
