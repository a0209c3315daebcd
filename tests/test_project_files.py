"""The files for contributors, services and package managers: their schemas, the commands they run, and what they repeat."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

from tests.test_versions import pins
from tools import check_version

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def content(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in content(workflow)["jobs"].values():
        yield from job.get("steps", [])


def commands(workflow: Path) -> list[str]:
    return [line.strip() for step in steps(workflow) for line in step.get("run", "").splitlines() if line.strip()]


# --- schemas, which check-jsonschema has with it: nothing is downloaded -----------------------------------------------


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.github-workflows", WORKFLOWS),
        ("custom.github-workflows-require-timeout", WORKFLOWS),
        ("vendor.dependabot", [GITHUB / "dependabot.yml"]),
        ("vendor.github-issue-forms", FORMS),
        ("vendor.github-issue-config", [GITHUB / "ISSUE_TEMPLATE" / "config.yml"]),
        ("vendor.citation-file-format", [ROOT / "CITATION.cff"]),
    ],
)
def test_the_schema(schema: str, files: list[Path]) -> None:
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_mistakes(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((GITHUB / "workflows" / "lint.yml").read_text(encoding="utf-8").replace("runs-on:", "run-on:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(wrong)]
    assert subprocess.run(command, capture_output=True).returncode == 1


# --- the commands of the workflows ------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_the_commands_exist(workflow: Path) -> None:
    lines = commands(workflow)
    assert lines
    for line in lines:
        for target in re.findall(r"\bmake ([a-z][\w-]*)", line):
            assert target in targets() or "apt-get" in line, line
        for extras in re.findall(r"\.\[([\w,]+)\]", line):
            assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys(), line
        for path in re.findall(r"(?:(?:tools|tests|benchmarks|\.ci)/[\w./]+|constraints[\w-]*\.txt)", line):
            assert (ROOT / path).exists(), line
        if "-c constraints.txt" in line:  # what is installed by name has a version
            names = re.search(r"-c constraints\.txt ([\w -]+)$", line)
            assert names is None or set(names[1].split()) <= pins("constraints.txt").keys(), line


def test_the_targets_of_the_matrix_exist() -> None:
    matrix = content(GITHUB / "workflows" / "weekly.yml")["jobs"]["make"]["strategy"]["matrix"]
    assert set(matrix["target"]) <= targets()


def test_oldest_with_oldest_and_newest_with_newest() -> None:
    matrix = content(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {system.split("-")[0] for system in matrix["os"]} == {"ubuntu", "macos", "windows"}
    oldest, newest = matrix["include"]
    assert f">={oldest['python']}" == PROJECT["project"]["requires-python"]
    assert (ROOT / oldest["constraints"].removeprefix("-c ")).exists()
    assert newest["constraints"] == ""
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert [oldest["python"], newest["python"]] == [versions[0], versions[-1]]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_permissions_are_least(workflow: Path) -> None:
    text = workflow.read_text(encoding="utf-8")
    for action in re.findall(r"uses: (\S+.*)$", text, re.MULTILINE):
        assert action.startswith("./") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action), action
    assert content(workflow)["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    for job in content(workflow)["jobs"].values():
        assert job.get("permissions", {}).keys() <= {"id-token"}
        assert "permissions" not in job or "environment" in job  # whoever may publish waits for approval
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), "values reach a shell by the environment only"
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_local_workflows_exist() -> None:
    for workflow in WORKFLOWS:
        for path in re.findall(r"uses: \./(\S+)", workflow.read_text(encoding="utf-8")):
            assert (ROOT / path).is_file()
            assert "workflow_call" in content(ROOT / path)["on"]


# --- what is stated in several places ---------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere(tmp_path: Path) -> None:
    assert check_version.problems(None) == []
    for name in [*check_version.PLACES, "CHANGELOG.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    found = check_version.problems("v77.1.0", tmp_path)
    assert [message.split(":")[0] for message in found] == [*check_version.PLACES, "CHANGELOG.md"]
    for name in check_version.PLACES:
        text = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace(str(check_version.written()[name]), "77.1.0"), encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 77.1.0 (2030-01-01)\n")
    assert check_version.problems("v77.1.0", tmp_path) == []


def test_the_conda_package_has_the_same_dependencies() -> None:
    recipe = content(ROOT / "recipe" / "recipe.yaml")
    names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    project = PROJECT["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    expected = {f"{names.get(each.name, each.name)} {each.specifier}" for each in wanted}
    assert set(recipe["requirements"]["run"]) == expected | {f"python {project['requires-python']}"}
    (setuptools,) = PROJECT["build-system"]["requires"]
    assert setuptools.replace(">=", " >=") in recipe["requirements"]["host"]
    (script,) = project["scripts"].items()
    assert recipe["build"]["python"]["entry_points"] == [" = ".join(script)]
    assert recipe["about"]["license"] == project["license"]
    assert recipe["about"]["summary"] == project["description"]


def test_the_authors_and_the_licence_are_the_same() -> None:
    citation = content(ROOT / "CITATION.cff")
    assert [{"name": each["name"]} for each in citation["authors"]] == PROJECT["project"]["authors"]
    assert citation["license"] == PROJECT["project"]["license"]


def test_the_hooks_have_the_versions_of_the_constraints() -> None:
    known = pins("constraints.txt")
    remote = [repo for repo in content(ROOT / ".pre-commit-config.yaml")["repos"] if repo["repo"] != "local"]
    packages = {"ruff-pre-commit": "ruff", "check-jsonschema": "check-jsonschema"}
    assert {repo["rev"].removeprefix("v") for repo in remote} == {
        known[packages[repo["repo"].rsplit("/", 1)[1]]] for repo in remote
    }


def test_local_hooks_exist() -> None:
    for repo in content(ROOT / ".pre-commit-config.yaml")["repos"]:
        for hook in repo["hooks"]:
            if repo["repo"] == "local":
                program, target = hook["entry"].split()
                assert program == "make"
                assert target in targets()


def test_the_oldest_versions_are_not_updated() -> None:
    (pip,) = (each for each in content(GITHUB / "dependabot.yml")["updates"] if each["package-ecosystem"] == "pip")
    assert "constraints-oldest.txt" in pip["exclude-paths"]


def test_one_wheel_for_every_python() -> None:
    """The kernels use the limited API from the oldest supported Python on."""
    oldest = PROJECT["project"]["requires-python"].removeprefix(">=3.")
    assert PROJECT["tool"]["cibuildwheel"]["build"] == f"cp3{oldest}-*"
    assert f'"py_limited_api": "cp3{oldest}"' in (ROOT / "setup.py").read_text(encoding="utf-8")
