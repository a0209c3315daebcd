"""Calls and commands in a process with little address space left. Run as a script, in a separate process."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def limit(beyond: float) -> None:
    """Limit the address space to what is in use plus this many bytes."""
    status = Path("/proc/self/status").read_text()
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + int(beyond), resource.RLIM_INFINITY))


def library() -> None:
    """Print the errors of calls that need more memory than is available, with and without the check of sizes."""
    import torch

    import mvnjac
    from mvnjac import inference
    from mvnjac.tensors import memory

    torch.set_num_threads(1)
    n, d = 4000, 100
    p = d + d * (d + 1) // 2
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gaps = x.clone()
    gaps[torch.rand(n, d, generator=torch.Generator().manual_seed(1)) < 0.05] = torch.nan
    mean, sigma = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    triangle = ("mean", "scale_tril")
    J = mvnjac.jacobian(x, mean, sigma)
    of_gaps = mvnjac.jacobian(gaps, mean, sigma, missing="marginalise")
    at_estimate = mvnjac.fit(x).gaussian.jacobian(x)
    calls: dict[str, Callable[[], Any]] = {
        "matrix": lambda: J.matrix(),
        "matrix in float32": lambda: mvnjac.jacobian(x.float(), mean.float(), sigma.float()).matrix(layout="full"),
        "J[name]": lambda: J["covariance_matrix"],
        "gram": lambda: J.gram(),
        "hessian.matrix": lambda: mvnjac.hessian(x, mean, sigma).matrix(),
        "hessian.matrix by the triangle": lambda: mvnjac.hessian(x, mean, sigma, wrt=triangle).matrix(),
        "hessian.inverse_diagonal": lambda: mvnjac.hessian(x, mean, sigma).inverse_diagonal(),
        "fisher_information.matrix": lambda: mvnjac.fisher_information(mean, sigma).matrix(),
        "fisher_information.inverse": lambda: mvnjac.fisher_information(mean, sigma).inverse(),
        "matrix with missing entries": lambda: of_gaps.matrix(),
        "log_prob with missing entries": lambda: of_gaps.log_prob,
        "sum with missing entries": lambda: of_gaps.sum(),
        "fit with missing entries": lambda: mvnjac.fit(gaps, missing="marginalise"),
        "covariance_of_estimates": lambda: inference.covariance_of_estimates(at_estimate),
        "covariance_of_estimates opg": lambda: inference.covariance_of_estimates(at_estimate, "opg"),
        "influence": lambda: inference.influence(at_estimate),
        "score_process": lambda: inference.score_process(at_estimate),
    }
    mvnjac.jacobian(gaps[:50, :3], mean[:3], sigma[:3, :3], missing="marginalise").matrix()
    mvnjac.hessian(x[:9, :3], mean[:3], sigma[:3, :3], wrt=triangle).inverse_diagonal()
    assert p == 5150
    limit(1e8)  # p×p are 212 MB, n×p 165 MB, and so are the patterns, n×d×d: 320 MB
    _print_errors(calls, "refuses")
    memory.available = lambda device: None  # type: ignore[assignment]
    _print_errors(calls, "fails")


def _print_errors(calls: dict[str, Callable[[], Any]], how: str) -> None:
    for name, call in calls.items():
        answer = [how, name, "", "", ""]
        try:
            call()
        except Exception as error:
            answer[2:] = [type(error).__name__, str(error), repr(error.__cause__)]
        print(json.dumps(answer), flush=True)


def command(arguments: list[str], beyond: float) -> None:
    """Run the command line with this much address space after all imports."""
    import torch

    import mvnjac
    from mvnjac.cli import main
    from mvnjac.report.html import page  # noqa: F401
    from mvnjac.tables import base

    base._formats()
    torch.set_num_threads(1)
    mvnjac.fit(torch.randn(9, 2).double()).gaussian.jacobian(torch.randn(9, 2).double()).matrix()
    limit(beyond)
    sys.argv = ["mvnjac", *arguments]
    main()


if __name__ == "__main__":
    if sys.argv[1] == "library":
        library()
    else:
        command(sys.argv[3:], float(sys.argv[2]))
