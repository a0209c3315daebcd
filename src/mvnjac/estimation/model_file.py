"""Model files: a mean and a covariance in safetensors, with the structure, the names and facts about the fit as metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mvnjac._version import __version__
from mvnjac.covariance import structures
from mvnjac.covariance.base import Covariance
from mvnjac.covariance.structured.block_diagonal import BlockDiagonal
from mvnjac.covariance.structured.parametric import Parametric
from mvnjac.errors import ArgumentError, TableError, UsageError
from mvnjac.gaussian import Gaussian
from mvnjac.statistics.fingerprint import Fingerprint

SUFFIX = ".safetensors"
_MEAN = "mean"
#: the metadata key of the fingerprint of the rows that a model was fitted to
ESTIMATED_FROM = "estimated_from"


def load(path: str | Path) -> Gaussian:
    """Load a model that `Fit.save` or `mvnjac fit` wrote: the mean, the covariance and the names of the variables.

    Args:
        path: the file.

    Returns:
        A `Gaussian`, on the CPU.

    Raises:
        TableError: the file does not exist, is damaged, or is not a model of mvnjac.
        NotPositiveDefiniteError: its covariance is not positive definite.

    Example:
        >>> import os, tempfile, torch, mvnjac
        >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
        >>> mvnjac.fit(torch.tensor([[1.0], [3.0]]), names=["AAPL"]).save(path)
        >>> mvnjac.load(path).jacobian(torch.tensor([[2.0]]).double()).columns()
        ['mean[AAPL]', 'covariance_matrix[AAPL,AAPL]']
    """
    return read(Path(path))


def check_suffix(path: Path | None) -> None:
    """Raise unless the path has the suffix of model files, which distinguishes them from tables."""
    if path is None:  # older versions of typer do not enforce a required option
        raise UsageError(f"-o: name the file for the model, with the suffix {SUFFIX}.")
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: a model is a {SUFFIX} file; name it so.")


def write(path: Path, gaussian: Gaussian, about: dict[str, str]) -> None:
    """Write a model file; after an error there is none, or the previous one."""
    from mvnjac.tables.output import replacing

    covariance, model = gaussian.covariance, gaussian.model
    tensors = {_MEAN: gaussian.mean, **covariance.parameters}
    metadata = {
        "mvnjac": __version__,
        "structure": json.dumps(describe_structure(covariance)),
        "names": json.dumps(model.arguments.naming.argument),
        "missing": model.arguments.missing or "",
        "boundary": json.dumps(gaussian.boundary),
        **about,
    }
    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # also raised where the folder does not exist
            raise TableError(f"{path}: cannot be written ({error}).") from error


def read(path: Path) -> Gaussian:
    """Read and check what `write` has written."""
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    try:
        # without the device, older versions of safetensors would use torch's default device
        with torch.device("cpu"), safe_open(path, framework="pt") as file:
            metadata, keys = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name) for name in keys}
    except (SafetensorError, OSError) as error:
        raise TableError(f"{path}: cannot be read ({error}). Is it complete, and a model that `mvnjac fit` wrote?") from error
    try:
        mean, description = tensors.pop(_MEAN), json.loads(metadata["structure"])
        names, missing = json.loads(metadata["names"]), metadata["missing"] or None
        gaussian = Gaussian(mean, _structure(description, tensors), names=names, missing=missing)
        gaussian.boundary = json.loads(metadata.get("boundary", "[]"))
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"{path}: is not a model that mvnjac {__version__} can read ({type(error).__name__}: {error}); it was written by "
            f"mvnjac {metadata.get('mvnjac', '(unknown)')}, with the tensors {', '.join(sorted(tensors)) or '(none)'}."
        ) from error
    gaussian.model.validate_parameters()
    return gaussian


def estimated_from(path: Path) -> Fingerprint | None:
    """The fingerprint of the rows that the model was fitted to; None if the file has none, or the fit has not converged."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("converged") != "true" or ESTIMATED_FROM not in metadata:
        return None
    return Fingerprint.from_json(metadata[ESTIMATED_FROM])


def describe_structure(covariance: Covariance) -> Any:
    """As JSON, what identifies a structure, apart from its parameters: its class; for blocks, the class of each and the sizes."""
    if isinstance(covariance, Parametric):
        raise ArgumentError("save: a Parametric is a function, which cannot be saved; save its parameters by torch.save.")
    if isinstance(covariance, BlockDiagonal):
        return {"blocks": [describe_structure(block) for block in covariance.blocks], "sizes": covariance.sizes}
    return type(covariance).__name__


def _structure(description: Any, tensors: dict[str, Tensor]) -> Covariance:
    if isinstance(description, str):
        return structures()[description](**tensors)
    blocks = []
    for i, block in enumerate(description["blocks"]):
        prefix = f"blocks[{i}]."
        block_tensors = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        blocks.append(_structure(block, block_tensors))
    return BlockDiagonal(blocks, description["sizes"])
