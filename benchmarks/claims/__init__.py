"""What papers claim, by package: each name is that of a file under ``benchmarks/evidence/``."""

from claims import language, vision
from claims.claim import Claim

CLAIMS: dict[str, Claim] = {**vision.CLAIMS, **language.CLAIMS}

__all__ = ["CLAIMS", "Claim"]
