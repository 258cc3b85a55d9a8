"""How threads wait for each other is set before torch is imported, where nobody has chosen."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("first", "environment", "expected"),
    [
        ("", {}, "1000"),
        ("", {"GOMP_SPINCOUNT": "5"}, "5"),
        ("", {"OMP_WAIT_POLICY": "active"}, "None"),
        ("import torch; ", {}, "None"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is Linux's")
def test_the_spin_count(first: str, environment: dict[str, str], expected: str):
    code = f"{first}import lowerbound, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    clean = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True)
    assert done.stdout.strip() == expected, done.stderr
