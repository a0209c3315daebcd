"""A mean and a covariance in one file: safetensors, with the structure, the names and what is known of the fit as metadata."""

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
#: the fingerprint of the rows whose likelihood a model maximises, in its metadata
ESTIMATED_FROM = "estimated_from"


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


def check_suffix(path: Path | None) -> None:
    """A model has one suffix, so that nobody takes it for a table."""
    if path is None:  # older typer lets a required option pass
        raise UsageError(f"-o: name the file for the model, with the suffix {SUFFIX}.")
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: a model is a {SUFFIX} file; name it so.")


def write(path: Path, gaussian: Gaussian, about: dict[str, str]) -> None:
    """The file is complete or absent."""
    from mvnjac.tables.output import replacing

    covariance, model = gaussian.covariance, gaussian.model
    tensors = {_MEAN: gaussian.mean, **covariance.parameters}
    metadata = {
        "mvnjac": __version__,
        "structure": json.dumps(_form(covariance)),
        "names": json.dumps(model.arguments.naming.argument),
        "missing": model.arguments.missing or "",
        "boundary": json.dumps(gaussian.boundary),
        **about,
    }
    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, temporary, metadata)
        except SafetensorError as error:  # its own class, also where a folder does not exist
            raise TableError(f"{path}: cannot be written ({error}).") from error


def read(path: Path) -> Gaussian:
    """What `write` has written; its numbers are looked at."""
    if not path.exists():
        raise TableError(f"{path}: no such file.")
    try:
        with torch.device("cpu"), safe_open(path, framework="pt") as file:  # older safetensors take torch's default device
            metadata, held = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name) for name in held}
    except (SafetensorError, OSError) as error:
        raise TableError(f"{path}: cannot be read ({error}). Is it complete, and a model that `mvnjac fit` wrote?") from error
    try:
        mean, form = tensors.pop(_MEAN), json.loads(metadata["structure"])
        names, missing = json.loads(metadata["names"]), metadata["missing"] or None
        gaussian = Gaussian(mean, _structure(form, tensors), names=names, missing=missing)
        gaussian.boundary = json.loads(metadata.get("boundary", "[]"))
    except (KeyError, TypeError, ValueError) as error:
        raise TableError(
            f"{path}: is no model of this mvnjac ({type(error).__name__}: {error}); it was written by mvnjac "
            f"{metadata.get('mvnjac', '(unknown)')}, this is {__version__}, and it holds {', '.join(sorted(tensors)) or 'nothing'}."
        ) from error
    gaussian.model.validate_parameters()
    return gaussian


def estimated_from(path: Path) -> Fingerprint | None:
    """The fingerprint of the rows whose likelihood the model of this file maximises; None where the file does not say so."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("converged") != "true" or ESTIMATED_FROM not in metadata:
        return None
    return Fingerprint.from_json(metadata[ESTIMATED_FROM])


def _form(covariance: Covariance) -> Any:
    """What besides its parameters makes a structure: its class; of blocks those of all of them, and their sizes."""
    if isinstance(covariance, Parametric):
        raise ArgumentError("save: a Parametric is a function, which no file holds; save its parameters by torch.save.")
    if isinstance(covariance, BlockDiagonal):
        return {"blocks": [_form(block) for block in covariance.blocks], "sizes": covariance.sizes}
    return type(covariance).__name__


def _structure(form: Any, tensors: dict[str, Tensor]) -> Covariance:
    if isinstance(form, str):
        return structures()[form](**tensors)
    blocks = []
    for i, inner in enumerate(form["blocks"]):
        prefix = f"blocks[{i}]."
        own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        blocks.append(_structure(inner, own))
    return BlockDiagonal(blocks, form["sizes"])
