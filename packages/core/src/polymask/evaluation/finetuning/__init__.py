"""Fine-tuning with all labels or few, beside the same encoder from scratch."""

from polymask.evaluation.finetuning.options import configured
from polymask.evaluation.finetuning.result import Finetuned
from polymask.evaluation.finetuning.runs import RESULT, classified, finetune, folder_of

__all__ = ["RESULT", "Finetuned", "classified", "configured", "finetune", "folder_of"]
