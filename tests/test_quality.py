"""Metrics with names of several parts."""

import pytest

from lowerbound.errors import ConfigError, ModelError
from lowerbound.metrics.base import Value, measure, taken
from lowerbound.metrics.likelihood import NLL
from lowerbound.testing.metrics import MetricCase

# ---- names


def test_a_name_takes_all_values_that_begin_with_it():
    found = dict.fromkeys(("usage.top", "usage.bottom", "used"), Value(1.0, None, "codes", "=", 1, 0))
    assert list(taken(found, ["usage"])) == ["usage.top", "usage.bottom"]
    assert list(taken(found, ["used", "usage.top"])) == ["usage.top", "used"]
    with pytest.raises(ConfigError, match=r"no metric 'usage.tpo'; did you mean usage.top"):
        taken(found, ["usage.tpo"])
    with pytest.raises(ConfigError, match="no metric 'us'"):
        taken(found, ["us"])


def test_a_suffix_that_a_metric_does_not_have_is_named():
    case = MetricCase.of(NLL(draws=2))
    with pytest.raises(ConfigError, match=r"no metric 'nll.top'; did you mean nll"):
        measure(case.model, case.images, names=["nll.top"], options={"draws": 2})
    with pytest.raises(ModelError, match=r"VAE has no accuracy.top"):
        measure(case.model, case.images, names=["accuracy.top"])
