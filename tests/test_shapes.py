"""The shapes written on public functions are true: checked while they run, in a process of its own.

The checker is not for users' processes: it costs time, breaks torch.compile, and would answer bad input before our own errors do.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """
import pkgutil
from jaxtyping import install_import_hook
import mvnjac.covariance as covariance

public = ["jacobian", "gaussian", "log_prob", "information", "operators", "coordinates"]
skipped = {"base", "cache", "checks", "factor", "parametrisation"}  # no public tensors of their own
skipped |= {"parametric", "block_diagonal", "block_factor"}
structures = [f"covariance.{m.name}" for m in pkgutil.iter_modules(covariance.__path__) if m.name not in skipped]
with install_import_hook([f"mvnjac.{name}" for name in (*public[:5], *structures)], "beartype.beartype"):
    import mvnjac, mvnjac.gaussian
    covariance.structures()

import torch
from mvnjac.covariance.samples import Maker

for name, cls in covariance.structures().items():
    for rows, own in (((5,), ()), ((), ()), ((4,), (4,)), ((5, 1), (3,))):
        for structure in cls.samples(3, Maker(batch=own, seed=1)):
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
    raise SystemExit("the checker was not at work")
"""


def test_shapes_are_true() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
