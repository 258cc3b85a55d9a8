"""How a code's dimensions correspond to known factors of variation: functions of arrays, of whatever model they are."""

from lowerbound.metrics.disentangling.base import Estimate, Score
from lowerbound.metrics.disentangling.fixed import beta_vae, factor_vae
from lowerbound.metrics.disentangling.infomec import infomec
from lowerbound.metrics.disentangling.information import mig, modularity, told
from lowerbound.metrics.disentangling.prediction import dci, explicitness, sap
from lowerbound.metrics.disentangling.runs import udr

__all__ = [
    "Estimate",
    "Score",
    "beta_vae",
    "dci",
    "explicitness",
    "factor_vae",
    "infomec",
    "mig",
    "modularity",
    "sap",
    "told",
    "udr",
]
