"""Report of versions, active kernels and settings, for bug reports and questions of performance."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from mvnjac import kernels
from mvnjac._version import __version__
from mvnjac.kernels import cuda, huge_pages


def show_config() -> None:
    """Print versions, the active compiled kernels (or the reason why there are none), threads and settings.

    Example:
        >>> import mvnjac
        >>> mvnjac.show_config()  # doctest: +ELLIPSIS
        mvnjac ...
    """
    why_not = kernels.why_not()
    active = f"{kernels.native.instructions()} instructions" if why_not is None else f"none: {why_not}; plain torch is used"
    print(f"mvnjac {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(f"compiled kernels (CPU): {active}")
    print(f"threads: {torch.get_num_threads()} (torch.set_num_threads)")
    print(f"huge pages: {'asked for' if huge_pages.huge_pages() else 'not asked for'} (mvnjac.use_huge_pages)")
    why_not = cuda.why_not()
    active = version("triton") if why_not is None else f"none: {why_not}; plain torch is used"
    print(f"Triton kernels (CUDA): {active}")
    if torch.cuda.is_available():
        print(f"CUDA: {torch.cuda.get_device_name()}")
