"""Optional libraries: imported where they are used, their absence answered with the line that mends it."""

from __future__ import annotations

import importlib
from types import ModuleType

from swinkit.errors import MissingExtraError


def need(module: str, extra: str) -> ModuleType:
    """Return the imported ``module``.

    Args:
        module: dotted name, as in an import statement.
        extra: the extra of this package that installs it.

    Raises:
        MissingExtraError: with the ``pip install`` line, when it is not there.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        # What is missing may be what the module itself imports: torch.utils.tensorboard without tensorboard.
        absent = error.name if isinstance(error, ModuleNotFoundError) and error.name else module
        missing = absent.split(".")[0]
        raise MissingExtraError(f"this needs {missing}, which is not installed; run: pip install 'swinkit[{extra}]'") from error
