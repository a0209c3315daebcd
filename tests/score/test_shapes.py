"""The shape annotations of public functions are correct: jaxtyping checks them at run time, in a separate process.

Users' processes do not run this check: it takes time, breaks torch.compile, and would raise before mvnjac's own errors.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import pkgutil
from jaxtyping import install_import_hook
import mvnjac.covariance as covariance
from mvnjac.covariance import parametrisations, structured

public = ["score.jacobian", "gaussian", "autodiff.log_prob", "information.functions", "information.operators", "parameters.coordinates"]
skipped = {"parametric", "block_diagonal", "block_factor"}
structures = [
    module.name.removeprefix("mvnjac.")
    for package in (parametrisations, structured)
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")
    if module.name.rpartition(".")[2] not in skipped
]
with install_import_hook([f"mvnjac.{name}" for name in (*public[:5], *structures)], "beartype.beartype"):
    import mvnjac, mvnjac.gaussian
    covariance.structures()

import torch
from mvnjac.covariance.samples import Maker

for name, cls in covariance.structures().items():
    for rows, param_batch in (((5,), ()), ((), ()), ((4,), (4,)), ((5, 1), (3,))):
        for structure in cls.samples(3, Maker(batch=param_batch, seed=1)):
            x, mean = Maker(batch=rows, seed=2).normal(3), Maker(seed=3).normal(3)
            J = mvnjac.Gaussian(mean, structure).jacobian(x)
            p = len(J.columns())
            J.matrix(out=torch.empty(*J.batch, p).double()), J.unique("scale_tril"), J.values(), J.log_prob, J["mean"]
            J.sum(torch.ones(J.batch)), J.gram(torch.ones(J.batch)), J.matvec(torch.ones(p)), J.rmatvec(torch.ones(J.batch))
            mvnjac.jacobian(x, mean, structure), mvnjac.log_prob(x, mean, structure), mvnjac.Gaussian(mean, structure).log_prob(x)
            H, F = mvnjac.hessian(x, mean, structure), mvnjac.fisher_information(mean, structure)
            for operator in (H, F):
                operator.matrix(), operator.matvec(torch.ones(p)), operator.columns()
            F.solve(torch.ones(p)), F.inverse_diagonal()
            if x.numel():
                mvnjac.natural_gradient(x, mean, structure)

try:
    mvnjac.log_prob(torch.zeros(3), torch.zeros(2), torch.eye(2))
except Exception as error:
    assert type(error).__name__ == "TypeCheckError", error
else:
    raise SystemExit("the checker was not active")
"""


INFERENCE = """
from jaxtyping import install_import_hook

files = ["estimate_covariances", "delta", "hac", "score_tests", "information_matrix", "influential_rows", "structural_change"]
with install_import_hook(["mvnjac.tables.dataframes", *(f"mvnjac.inference.{name}" for name in files)], "beartype.beartype"):
    import mvnjac
    from mvnjac import inference
    inference.score_process, inference.score_test, inference.influence, inference.information_matrix_test, inference.delta_method

import pandas as pd
import torch

x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).double()
weights = torch.ones(60).double()
rows = mvnjac.from_table(pd.DataFrame(x.numpy(), columns=["a", "b"]))
J = mvnjac.fit(rows.x, names=rows.names).gaussian.jacobian(rows.x)
rows.table(J.matrix(), J.columns())
for kind in ("expected", "observed", "opg", "sandwich", "hac"):
    V = inference.covariance_of_estimates(J, kind, weights=weights)
    V.standard_errors, V.z, V.p_values, V.correlation, V.interval(), repr(V)
inference.covariance_of_estimates(J, "clustered", clusters=torch.arange(60) // 3)
inference.delta_method(V, lambda theta: theta["correlation_matrix"])
process = inference.score_process(J, scores_covariance=inference.scores_covariance(J))
process.double_max(), process.nyblom_hansen(), process.sup_lm(), process.lm_statistics(), process.by_variable(), repr(process)
inference.influence(J, weights=weights).top(3), inference.information_matrix_test(J)
inference.score_test(mvnjac.fit(x, "diagonal").gaussian.jacobian(x), weights=weights)
try:
    inference.covariance_of_estimates(J, weights=torch.ones(60, 2))
except Exception as error:
    assert type(error).__name__ == "TypeCheckError", error
else:
    raise SystemExit("the checker was not active")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [SCRIPT, INFERENCE], ids=["core", "inference"])
def test_shape_annotations(script: str) -> None:
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
