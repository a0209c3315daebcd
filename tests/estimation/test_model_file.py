"""Model files: every structure is restored exactly; damaged files raise errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import mvnjac
from mvnjac import errors
from mvnjac.covariance import structures
from mvnjac.covariance.samples import Maker
from mvnjac.estimation import model_file
from tests.support.fitting import sample


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    mvnjac.fit(sample(60, 4), "low-rank:1", names=["a", "b", "c", "d"]).save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("name", [name for name in structures() if name != "Parametric"])
def test_every_structure_comes_back(tmp_path: Path, name: str) -> None:
    for structure in structures()[name].samples(3, Maker(seed=3)):
        gaussian = mvnjac.Gaussian(torch.arange(3.0).double(), structure, names=["a", "b,c", "d"])
        model_file.write(tmp_path / "m.safetensors", gaussian, {})
        again = mvnjac.load(tmp_path / "m.safetensors")
        assert again.names == ["a", "b,c", "d"]
        assert repr(again) == repr(gaussian)
        x = Maker(seed=1).normal(5, 3)
        assert torch.equal(again.jacobian(x).matrix(), gaussian.jacobian(x).matrix())


def test_what_is_known_of_the_fit_is_kept(saved: Path) -> None:
    estimate = mvnjac.fit(sample(60, 4), "low-rank:1", names=["a", "b", "c", "d"])
    with safe_open(saved, framework="pt") as file:
        about = file.metadata()
    assert json.loads(about["names"]) == ["a", "b", "c", "d"]
    assert (about["rows"], about["converged"], about["mvnjac"]) == ("60", "true", mvnjac.__version__)
    assert float(about["log_likelihood"]) == estimate.log_likelihood
    assert float(about["score_ratio"]) == estimate.score_ratio


def test_missing_and_names_of_matrices(tmp_path: Path) -> None:
    x = sample(60, 6).reshape(60, 2, 3)
    x[3, 0, 0] = torch.nan
    estimate = mvnjac.fit(x, "kronecker:2x3", missing="marginalise", names=[["r", "s"], ["u", "v", "w"]])
    estimate.save(tmp_path / "m.safetensors")
    again = mvnjac.load(str(tmp_path / "m.safetensors"))
    assert again.mean.shape == (2, 3)
    assert again.jacobian(x).columns() == estimate.gaussian.jacobian(x).columns()
    assert float(again.log_prob(x).sum()) == pytest.approx(estimate.log_likelihood)


def test_a_function_cannot_be_saved(tmp_path: Path) -> None:
    theta = {"variance": torch.tensor(1.0).double()}
    estimate = mvnjac.fit(sample(60, 2), mvnjac.Parametric(lambda t: t["variance"].exp() * torch.eye(2).double(), theta))
    with pytest.raises(errors.ArgumentError, match="cannot be saved"):
        estimate.save(tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_damaged_files(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(saved.read_bytes()[:-20])
    with pytest.raises(errors.TableError, match=r"cannot be read .*Is it complete"):
        mvnjac.load(other)
    other.write_text("a,b\n1,2\n")
    with pytest.raises(errors.TableError, match="cannot be read"):
        mvnjac.load(other)
    with pytest.raises(errors.TableError, match="no such file"):
        mvnjac.load(tmp_path / "absent.safetensors")


ABOUT = {"mvnjac": "0", "structure": '"Diagonal"', "names": "null", "missing": ""}
TENSORS = {"mean": torch.zeros(2), "cov_diag": torch.ones(2)}
WRONG = {
    "nothing known": (TENSORS, {}),
    "no mean": ({"cov_diag": torch.ones(2)}, ABOUT),
    "no such structure": (TENSORS, {**ABOUT, "structure": '"Diagonale"'}),
    "no JSON": (TENSORS, {**ABOUT, "structure": "Diagonal"}),
    "other parameters": ({"mean": torch.zeros(2), "variance": torch.ones(2)}, ABOUT),
    "other shapes": ({"mean": torch.zeros(3), "cov_diag": torch.ones(2)}, ABOUT),
    "too few names": (TENSORS, {**ABOUT, "names": '["a"]'}),
    "no way with gaps": (TENSORS, {**ABOUT, "missing": "drop"}),
    "not a structure's form": (TENSORS, {**ABOUT, "structure": "[1]"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_no_models(tmp_path: Path, case: str) -> None:
    tensors, about = WRONG[case]
    save_file(tensors, tmp_path / "m.safetensors", about)
    with pytest.raises(errors.TableError, match=r"is not a model that mvnjac .* can read"):
        mvnjac.load(tmp_path / "m.safetensors")


def test_numbers_that_are_no_density(tmp_path: Path) -> None:
    save_file({"mean": torch.zeros(2), "cov_diag": torch.tensor([1.0, -1.0])}, tmp_path / "m.safetensors", ABOUT)
    with pytest.raises(errors.NotPositiveDefiniteError, match="cov_diag entry 1"):
        mvnjac.load(tmp_path / "m.safetensors")


def test_a_file_is_complete_or_as_it_was(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(errors.TableError, match="No space left"):
        mvnjac.fit(sample(60, 2)).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert set(load_file(saved)) == {"mean", "cov_factor", "cov_diag"}


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(errors.TableError, match=r"nowhere/m\.safetensors: cannot be written"):
        mvnjac.fit(sample(60, 2)).save(tmp_path / "nowhere" / "m.safetensors")
