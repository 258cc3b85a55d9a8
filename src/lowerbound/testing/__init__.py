"""Public batteries: what holds of every model, family, network, quantizer, data set and metric, a user's own included.

    check_model(MyModel.Config(width=4), Space((1, 2, 2), levels=2))     # or the class alone: its example() is taken
    check_training(MyModel.Config)
    check_family(MyFamily())
    check_network(MyNetwork.Config)
    check_causal_network(MyCausalNetwork.Config)
    check_quantizer(MyQuantizer.Config)
    check_dataset(Data(source="photos/"))
    check_metric(MyMetric())

Each runs its named checks (`MODEL_CHECKS`, …) on tiny instances, and raises AssertionError with the component, the
check and what is wrong. What a file of this folder defines without an underscore is public here.
"""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # which names there are is known once the files are imported

    def __getattr__(name: str) -> Any: ...


def _defined(file: ModuleType) -> Iterator[str]:
    """The functions, classes and constants that a file defines, not those that it imports."""
    for node in ast.parse(inspect.getsource(file)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


_files = [importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
_public = {n: getattr(file, n) for file in _files for n in _defined(file) if not n.startswith("_")}
globals().update(_public)
__all__ = sorted(_public)  # pyright: ignore[reportUnsupportedDunderAll]
