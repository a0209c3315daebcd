"""A mean and a covariance in one file: safetensors, with the structure, the names and what is known of the fit as metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mvnjac.covariance import structures
from mvnjac.covariance.parametric import Parametric
from mvnjac.errors import ArgumentError, TableError, UsageError
from mvnjac.gaussian import Gaussian

SUFFIX = ".safetensors"
_MEAN = "mean"


def load(path: str | Path) -> Gaussian:
    """The mean and the covariance that `Fit.save` or `mvnjac fit` has written, with the variables' names.

    Args:
        path: the file.

    Returns:
        A `Gaussian`, on the CPU.

    Raises:
        TableError: there is no such file, or it is damaged, or it is no model of mvnjac.
        NotPositiveDefiniteError: its numbers are no density.

    Example:
        >>> import os, tempfile, torch, mvnjac
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> mvnjac.fit(torch.tensor([[1.0], [3.0]]), names=["AAPL"]).save(path)
        >>> mvnjac.load(path).jacobian(torch.tensor([[2.0]]).double()).columns()
        ['mean[AAPL]', 'covariance_matrix[AAPL,AAPL]']
    """
    return read(Path(path))


def check_suffix(path: Path) -> None:
    """A model has one suffix, so that nobody takes it for a table."""
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: a model is a {SUFFIX} file; name it so.")


def write(path: Path, gaussian: Gaussian, about: dict[str, str]) -> None:
    """The file is complete or absent."""
    from mvnjac import __version__
    from mvnjac.tables.output import replacing

    covariance = gaussian.covariance
    if isinstance(covariance, Parametric):
        raise ArgumentError("save: a Parametric is a function, which no file holds; save its parameters by torch.save.")
    tensors = {_MEAN: gaussian.mean, **covariance.parameters}
    metadata = {
        "mvnjac": __version__,
        "structure": type(covariance).__name__,
        "names": json.dumps(gaussian.names),
        **about,
    }
    with replacing(path) as temporary:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary, metadata)


def read(path: Path) -> Gaussian:
    """What `write` has written; its numbers are looked at."""
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TableError(f"{path}: cannot be read ({error}). Is it complete, and a model that `mvnjac fit` wrote?") from error
    cls = structures().get(metadata.get("structure", ""))
    if "mvnjac" not in metadata or cls is None or set(tensors) != {_MEAN, *cls.fields}:
        raise TableError(
            f"{path}: is no model of this mvnjac: it holds {', '.join(sorted(tensors)) or 'nothing'} of the structure "
            f"{metadata.get('structure')!r} (mvnjac {metadata.get('mvnjac')})."
        )
    mean = tensors.pop(_MEAN)
    gaussian = Gaussian(mean, cls(**tensors), names=json.loads(metadata["names"]))
    gaussian._model.check_parameters()
    return gaussian
