"""Files: a checkpoint is read as data and never run; what is written is there entirely or not at all."""

from .atomic import write_atomically
from .checkpoint import (
    add_trust_argument,
    check_output,
    check_tensors,
    read_checkpoint,
    read_weights,
    write_checkpoint,
)

__all__ = [
    'add_trust_argument',
    'check_output',
    'check_tensors',
    'read_checkpoint',
    'read_weights',
    'write_atomically',
    'write_checkpoint',
]
