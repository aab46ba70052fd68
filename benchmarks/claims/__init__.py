"""What papers claim, by package: each name is that of a file under ``benchmarks/evidence/``."""

from claims import audio, decoders, generation, language, pointcloud, scenes, vision
from claims.claim import Claim

CLAIMS: dict[str, Claim] = {
    **vision.CLAIMS,
    **scenes.CLAIMS,
    **generation.CLAIMS,
    **audio.CLAIMS,
    **language.CLAIMS,
    **pointcloud.CLAIMS,
    **decoders.CLAIMS,
}

__all__ = ["CLAIMS", "Claim"]
