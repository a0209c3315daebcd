"""Kernels with threads and processes: identical results, no deadlock after a fork, and the GIL is released."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import mvnjac
from mvnjac import kernels
from tests.kernels.support import rows

pytestmark = pytest.mark.skipif(kernels.native is None, reason="the kernels are not built or switched off")


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def results(n: int = 6000, d: int = 24) -> list[torch.Tensor]:
    x, mean, sigma = rows(n, d, torch.float64)
    J = mvnjac.jacobian(x, mean, sigma)
    batched = mvnjac.jacobian(*rows(3000, 5, torch.float64, batch=True))
    lower = mvnjac.jacobian(x, mean, mvnjac.Cholesky(torch.linalg.cholesky(sigma)))
    return [J.log_prob, *J.sum().values(), J.matrix(), *batched.sum().values(), lower.unique("scale_tril")]


def test_results_do_not_depend_on_the_number_of_threads(threads) -> None:
    """The division of rows into parts is the same for any number of threads, so that results agree to the last bit."""
    expected = results()
    torch.set_num_threads(1)
    for one, other in zip(expected[:-1], results()[:-1], strict=True):
        assert torch.equal(one, other)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the libraries of the system do not survive a fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_process_does_not_deadlock() -> None:
    """The threads of a pool would not exist in the child process, which would wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x, mean, sigma = rows(20_000, 24, torch.float64)
        expected = mvnjac.jacobian(x, mean, sigma).sum()["mean"]
        context = multiprocessing.get_context("fork")
        queue = context.Queue()

        def child() -> None:
            queue.put(mvnjac.jacobian(x, mean, sigma).sum()["mean"].tolist())

        process = context.Process(target=child)
        process.start()
        assert queue.get(timeout=60) == expected.tolist()
        process.join(60)
        assert process.exitcode == 0
    finally:
        torch.set_num_threads(before)


def test_concurrent_calls_from_python_threads(threads) -> None:
    """Each call requests torch's number of threads; concurrent calls together use no more than the number of cores."""
    expected = results()[1]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: results()[1], range(8)):
            assert torch.equal(found, expected)


def test_the_gil_is_released() -> None:
    """Another Python thread runs during a long call."""
    x, mean, sigma = rows(60_000, 100, torch.float64)
    running, counts = threading.Event(), [0]

    def count() -> None:
        running.set()
        while running.is_set():
            counts[0] += 1

    other = threading.Thread(target=count)
    other.start()
    running.wait()
    address = [t.data_ptr() for t in (mean, sigma)]
    prepared = kernels.native.prepare(8, 0, *address, 0, 100, 1e-10)
    out = torch.empty(60_000, dtype=torch.float64)
    before = counts[0]
    kernels.native.log_prob(8, x.data_ptr(), prepared, 60_000, 100, out.data_ptr(), 1)
    during = counts[0] - before
    running.clear()
    other.join()
    assert during > 1000
