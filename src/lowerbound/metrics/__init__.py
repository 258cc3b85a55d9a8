"""What is measured of a model: one file per kind of question."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["disentangling"])
