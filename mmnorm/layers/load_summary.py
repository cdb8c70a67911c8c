"""What the log says of a load in which norms took the weights of other norms and something was lost."""

import logging
import sys

from ..registry import NORMS
from .state_dict import ForeignState


def describe(state: ForeignState, layer: str, kept: list[str], dropped: list[str]) -> str:
    """What a layer made of ``state``; empty if there is nothing to say."""
    learned = state.source in NORMS
    if not dropped and not learned:
        return ''
    text = f'{layer} layers took weights of {state.source}'
    if learned:
        text += f' (gamma and beta{"".join(", " + what for what in kept)})'
    return text + (f' without {", ".join(dropped)}' if dropped else '')


# The list that one load hands to all its layers, and what has been said in it.
_load: list[str] | None = None
_said: set[str] = set()


def say(text: str, missing_keys: list[str]) -> None:
    """Log ``text``, once for all layers of a load that say the same.

    A layer is told neither whom it belongs to nor when the load ends, so the first that has something to say does.

    Args:
        text: What :func:`describe` returns.
        missing_keys: The list that ``load_state_dict`` handed to the layer. All layers of one load share it.
    """
    global _load
    if not text:
        return
    if _load is not missing_keys:
        _load = missing_keys
        _said.clear()
    if text not in _said:
        _said.add(text)
        _log(f'mmnorm: {text}')


def _log(message: str) -> None:
    # mmengine's logger of the run, if mmengine is in use, so that it reaches the log file.
    logging_of_mmengine = sys.modules.get('mmengine.logging')
    if logging_of_mmengine is None:
        logging.getLogger('mmnorm').warning(message)
    else:
        logging_of_mmengine.print_log(message, logger='current', level=logging.WARNING)
