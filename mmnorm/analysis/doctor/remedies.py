"""Lines to write: options of mmnorm's commands where the config is known, else what a config or a program says."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.registry import MODELS

from ...convert.configs import WRAPPER
from ...registry import NORMS, means_ours


class Remedies:
    """Writes them for a network.

    Args:
        cfg: Its config; None for a network that has none.
        source: What the config is called on the command line.
    """

    def __init__(self, cfg: Mapping | None = None, source: str = 'CONFIG') -> None:
        self.cfg = cfg
        self.source = source

    def options(self, **settings: Any) -> str:
        """Settings of the config, as --cfg-options takes them; in a name '__' stands for a dot."""
        if self.cfg is None:
            return ', '.join(f'{key.replace("__", ".")} = {value!r}' for key, value in settings.items())
        words = ' '.join(f'{key.replace("__", ".")}={_value(value)}' for key, value in settings.items())
        return f'--cfg-options {words}'

    def norm(self, names: Sequence[str], kind: str, **arguments: Any) -> str:
        """Let the norms called so have other arguments, or be of another kind.

        Args:
            names: Names of layers.
            kind: That they are of, or are to be of: 'EN', 'BN', ...
            **arguments: Those of the layer.
        """
        shown = ''.join(f', {key}={value!r}' for key, value in arguments.items())
        in_config = f"norm_cfg=dict(type='{kind}'{shown})"
        if self.cfg is None:
            return in_config
        keys = {self._norm_cfg_of(name) for name in names}
        if None not in keys and all(self._type_at(key) == kind for key in keys):
            settings = {f'{key}.{name}': value for key in sorted(map(str, keys)) for name, value in arguments.items()}
            return self.options(**settings)
        if kind not in NORMS:
            known = sorted(key for key in keys if key)
            changes = {**dict(type=kind), **arguments}
            settings = {f'{key}.{name}': value for key in known for name, value in changes.items()}
            return self.options(**settings) if len(known) == len(keys) else in_config
        shown = ', '.join(f'{key}={value!r}' for key, value in self._arguments(kind, arguments).items())
        text = f'--norm "{kind}({shown})"' if shown else f'--norm {kind}'
        wrapped = means_ours(self.cfg['model'].get('type'), MODELS, WRAPPER)
        scope = list(self.cfg['model'].get('norm_scope') or ()) if wrapped else _holders(names)
        return text + (f' --norm-scope {",".join(scope)}' if scope else '')

    def hook(self, name: str, call: str) -> list[str]:
        """Let a run have a hook of mmnorm's: its lines in the config, and what a program of one's own calls."""
        return [f"custom_hooks = [dict(type='{name}')]", call]

    def _arguments(self, kind: str, arguments: dict) -> dict:
        """With those that the norm of --norm has already."""
        assert self.cfg is not None
        norm = self.cfg['model'].get('norm')
        before = norm if isinstance(norm, Mapping) and norm.get('type') == kind else {}
        return {**{key: value for key, value in before.items() if key != 'type'}, **arguments}

    def _norm_cfg_of(self, name: str) -> str | None:
        """The key of the norm_cfg that a layer was built by: the deepest on the way to it."""
        assert self.cfg is not None
        node, key, found = self.cfg.get('model'), 'model', None
        for part in [*name.split('.'), '']:
            if isinstance(node, Mapping) and isinstance(node.get('norm_cfg'), Mapping):
                found = f'{key}.norm_cfg'
            if isinstance(node, Mapping) and part in node:
                node, key = node[part], f'{key}.{part}'
            elif isinstance(node, list | tuple) and part.isdigit() and int(part) < len(node):
                node, key = node[int(part)], f'{key}.{part}'
            else:
                break
        return found

    def _type_at(self, key: str | None) -> str | None:
        node: Any = self.cfg
        for part in str(key).split('.'):
            node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        return node.get('type')


def _holders(names: Sequence[str]) -> list[str]:
    """The sub-modules that hold norms, those within others left out."""
    holders = sorted({name.rpartition('.')[0] or name for name in names})
    return [h for h in holders if not any(h.startswith(f'{other}.') for other in holders)]


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f'"({",".join(map(str, value))})"'
    return str(value)
