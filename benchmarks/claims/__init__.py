"""What papers claim, by package: each name is that of a file under ``benchmarks/evidence/``."""

from claims import language, vision
from claims.claim import Claim

CLAIMS: dict[str, Claim] = {**language.CLAIMS, **vision.CLAIMS}

__all__ = ["CLAIMS", "Claim"]
