"""Latent-variable models of images: train, measure, sample. Every likelihood says whether it is exact or a bound."""

import lazy_loader

# The public names stand in __init__.pyi, and are imported when they are first used: `lowerbound --help` waits for no
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
