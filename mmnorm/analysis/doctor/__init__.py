"""Looks at the norms of a network: what is wrong with them, why, and what to write (``mmnorm analyze doctor``)."""

from .case import Case, Norm
from .diagnose import Diagnosis, diagnose
from .findings import Finding

__all__ = ['Case', 'Diagnosis', 'Finding', 'Norm', 'diagnose']
