"""A model answers to the names that requests are likely to give it."""

from pathlib import Path

import pytest

from gpu_worker.checkpoint.names import served_names


def test_a_hub_id_answers_with_and_without_its_organisation() -> None:
    assert served_names("org/some-model") == ("org/some-model", "some-model")
    assert served_names("gpt2") == ("gpt2",)


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_snapshot_folder_answers_as_what_was_downloaded(tmp_path: Path, through_a_link: bool) -> None:
    folder = tmp_path / "hub" / "models--org--some--model" / "snapshots" / "0123456789abcdef"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(folder)
    given = tmp_path / "link" if through_a_link else folder
    assert served_names(str(given)) == ("org/some--model", "some--model")


def test_a_snapshot_folder_of_a_model_without_an_organisation_answers_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "models--gpt2" / "snapshots" / "0123456789abcdef"
    folder.mkdir(parents=True)
    assert served_names(str(folder)) == ("gpt2",)


def test_a_folder_answers_to_its_name_and_to_its_path_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert served_names("mine") == ("mine",)
    assert served_names("./mine") == ("mine", "./mine")
    assert served_names(str(tmp_path / "mine")) == ("mine", str(tmp_path / "mine"))


def test_chosen_names_stand_alone_in_the_order_given() -> None:
    assert served_names("org/model", ("a", "b, c", "a")) == ("a", "b", "c")
    assert served_names("org/model", ("", " , ")) == ("org/model", "model")
