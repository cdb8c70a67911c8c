"""One line in the log for each load in which norms took the weights of other norms and something was lost."""

import logging
import sys
import weakref
from collections import Counter

from torch import nn

from .state_dict import OWN_PARAMETERS, ForeignState


def describe(state: ForeignState, kind: str, kept: list[str], dropped: list[str]) -> str:
    """One clause of the summary: what a layer made of ``state``; empty if there is nothing to say."""
    learned = state.source in OWN_PARAMETERS
    if not dropped and not learned:
        return ''
    text = f'{kind} took weights of {state.source}'
    if learned:
        text += f' (gamma and beta{"".join(", " + what for what in kept)})'
    return text + (f' without {", ".join(dropped)}' if dropped else '')


# What the layers below a module have to say about the load that it is in, and the mark of that load.
_pending: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def add_to_summary(clause: str, missing_keys: list[str]) -> None:
    """Say ``clause`` once the load that a layer is in has ended, with the number of layers that said the same.

    Args:
        clause: What was lost, without the number.
        missing_keys: The list that ``load_state_dict`` handed to the layer. All layers of one load share it.
    """
    if not clause:
        return
    top = _loading_module(missing_keys)
    if top is None:
        _log(f'mmnorm: a layer {clause}')
        return
    load, clauses = _pending.get(top, (None, None))
    if load is not missing_keys:
        clauses = Counter()
        _pending[top] = missing_keys, clauses
        # It stays: a hook can't take itself out while hooks are being called.
        if _log_summary not in top._load_state_dict_post_hooks.values():
            top.register_load_state_dict_post_hook(_log_summary)
    clauses[clause] += 1


def _loading_module(missing_keys: list[str]) -> nn.Module | None:
    """The module that is being loaded as a whole.

    A layer is told neither whom it belongs to nor when the load ends, and its parents can be given a new parent
    at any time. PyTorch and mmengine load by recursion, though, so the module is that of the outermost step.
    """
    top = None
    frame = sys._getframe(1)
    while frame is not None:
        variables = frame.f_locals
        if 'local_state_dict' in variables and variables.get('missing_keys') is missing_keys:
            top = variables.get('module')
        frame = frame.f_back
    return top if isinstance(top, nn.Module) else None


def _log_summary(module: nn.Module, incompatible_keys) -> None:
    _, clauses = _pending.pop(module, (None, None))
    if clauses:
        _log('mmnorm: ' + '; '.join(f'{count} {clause}' for clause, count in clauses.items()))


def _log(message: str) -> None:
    # mmengine's logger of the run, if mmengine is in use, so that it reaches the log file.
    logging_of_mmengine = sys.modules.get('mmengine.logging')
    if logging_of_mmengine is None:
        logging.getLogger('mmnorm').warning(message)
    else:
        logging_of_mmengine.print_log(message, logger='current', level=logging.WARNING)
