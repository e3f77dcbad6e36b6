"""What the commands share."""

from __future__ import annotations

import importlib.util


def require_packages(command: str, extra: str, names: list[str]) -> None:
    """Packages of an optional extra: everything else of the package works without them."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f'{command} needs {" and ".join(missing)}: pip install "batchsampler_ext[{extra}]"')
