"""All hooks, for mmengine's registry to import once a hook is looked up."""

from ..registry import report_taken_names
from .batch_average_hook import BatchAverageHook
from .exact_resume import ExactResumeHook
from .norm_eval_hook import NormEvalHook
from .norm_ratio_hook import NormRatioHook
from .sparsity_hook import SparsityHook

report_taken_names()

__all__ = ['BatchAverageHook', 'ExactResumeHook', 'NormEvalHook', 'NormRatioHook', 'SparsityHook']
