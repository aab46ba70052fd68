"""What papers claim, by package: each name is that of a file under ``benchmarks/evidence/``."""

from claims import audio, generation, language, pointcloud, scenes, vision
from claims.claim import Claim

CLAIMS: dict[str, Claim] = {
    **vision.CLAIMS,
    **scenes.CLAIMS,
    **generation.CLAIMS,
    **audio.CLAIMS,
    **language.CLAIMS,
    **pointcloud.CLAIMS,
}

__all__ = ["CLAIMS", "Claim"]
