"""The images hold what they need and no more. Nothing here needs Docker."""

import re
from pathlib import Path

import pytest

from tests.support.service.compose_file import DOCKERFILES, copied_into_images, read_compose
from tests.support.service.live_service import ROOT

FILES = pytest.mark.parametrize("file", DOCKERFILES.values(), ids=DOCKERFILES)


def instructions(file: Path) -> list[str]:
    """Returns a Dockerfile's instructions, each on one line, without comments."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return [line for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines() if line]


def install_line(file: Path) -> str:
    (line,) = [line for line in instructions(file) if "pip" in line and " install " in line and "-c" in line.split()]
    return line


def final_stage(file: Path) -> list[str]:
    lines = instructions(file)
    return lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]


def test_scheduler_image_installs_no_torch() -> None:
    line = install_line(DOCKERFILES["scheduler"])
    assert line.endswith(' -c constraints.txt ".[http]"')
    assert "worker" not in line
    assert "torch" not in "".join(instructions(DOCKERFILES["scheduler"]))


def test_worker_image_takes_torch_from_where_it_is_told() -> None:
    line = install_line(DOCKERFILES["worker"])
    assert line.endswith(' --extra-index-url "${TORCH_INDEX_URL}" -c constraints.txt ".[worker]"')


@FILES
def test_final_stage_installs_nothing_and_has_no_pip(file: Path) -> None:
    text = "\n".join(final_stage(file))
    assert " pip install" not in text
    assert "apt-get" not in text
    assert "pip uninstall" in text
    assert "--without-pip" in "\n".join(instructions(file))


@FILES
def test_image_runs_as_the_user_of_docker_compose(file: Path) -> None:
    (user,) = {service["user"] for service in read_compose()["services"].values()}
    assert [line for line in final_stage(file) if line.startswith("USER ")] == [f"USER {user}"]


@FILES
def test_base_image_is_slim_and_named_once(file: Path) -> None:
    lines = instructions(file)
    assert lines[0] == "ARG PYTHON_IMAGE=python:3.11-slim"
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} == {"${PYTHON_IMAGE}"}


@FILES
def test_image_is_labelled(file: Path) -> None:
    labels = "\n".join(line for line in final_stage(file) if line.startswith("LABEL "))
    assert all(f"org.opencontainers.image.{name}=" in labels for name in ("title", "description", "licenses"))


@FILES
def test_build_context_is_all_that_the_image_copies_and_no_more(file: Path) -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in patterns
    assert {f"!{source}" for source in copied_into_images(file)} <= set(patterns)
    everything = set().union(*map(copied_into_images, DOCKERFILES.values()))
    assert {pattern for pattern in patterns if pattern.startswith("!")} == {f"!{source}" for source in everything}


def test_all_that_images_copy_exists() -> None:
    for file in DOCKERFILES.values():
        assert [source for source in copied_into_images(file) if not (ROOT / source).exists()] == []


def test_pinned_torch_fits_every_device() -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (torch,) = [pin for pin in pins if pin.startswith("torch==")]
    assert "+" not in torch, "a local version such as +cpu would shut the CUDA build out"
