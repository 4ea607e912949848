"""A config file says settings by the names of their options; what it says wrongly is refused by file and key."""

from pathlib import Path
from typing import Any

import pytest
from qllm.config_file import ConfigFile, read_config_file
from qllm.settings import SettingRefused, settings_of

from tests.unit.qllm.sample_settings import Sample


def read(directory: Path, text: str, **described: Any) -> dict[str, Any]:
    file = directory / "qllm.toml"
    file.write_text(text)
    return read_config_file(file, ConfigFile(table="scheduler", **described), settings_of(Sample))


def test_names_are_those_of_options_with_either_hyphens_or_underscores(tmp_path: Path) -> None:
    assert read(tmp_path, "max-wait-ms = 20") == {"max_wait_ms": 20}
    assert read(tmp_path, "max_wait_ms = 20.5") == {"max_wait_ms": 20.5}


def test_every_type_is_read(tmp_path: Path) -> None:
    words = 'name = "n"\ncolour = "BLUE"\nshape = "square"\nfile = "f"\ntag = ["a", "b"]'
    assert read(tmp_path, words) == {"name": "n", "colour": "blue", "shape": "square", "file": "f", "tag": ["a", "b"]}
    assert read(tmp_path, "count = 4\nfast = true\nshare = 0.25") == {"count": 4, "fast": True, "share": 0.25}
    assert read(tmp_path, 'tag = "a"') == {"tag": ["a"]}


def test_the_own_table_wins_over_what_stands_above_and_the_other_one_is_left_aside(tmp_path: Path) -> None:
    text = "count = 4\nshare = 0.25\n[scheduler]\ncount = 5\n[worker]\nanything = 1"
    assert read(tmp_path, text) == {"count": 5, "share": 0.25}


def test_of_a_file_given_to_the_other_process_only_the_own_table_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, "anything = 1\n[scheduler]\ncount = 5", is_shared=True) == {"count": 5}


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("cuont = 1", "cuont: there is no such setting (did you mean count?); allowed are the names of the options"),
        ("[schedular]\ncount = 1", "schedular: there is no such setting"),
        (
            "dtype = 'float32'",
            "dtype: there is no such setting; allowed are the names of the options that --help lists; what is for "
            "another process stands in its own table, [scheduler] or [worker]",
        ),
        ("config = 'other.toml'", "config: there is no such setting"),
        ("rest = ['a']", "rest: there is no such setting"),
        ("count = 'many'", "count: got 'many', allowed is a whole number, 1 to 9"),
        ("count = 1.5", "count: got 1.5, allowed is a whole number, 1 to 9"),
        ("count = true", "count: got True, allowed is a whole number"),
        ("count = 0", "count: got 0, allowed is 1 to 9"),
        ("share = inf", "share: got inf, allowed is 0 to 0.9"),
        ("[scheduler]\nshare = 1", "[scheduler] share: got 1, allowed is 0 to 0.9"),
        ("fast = 'yes'", "fast: got 'yes', allowed is true or false"),
        ("name = 5", "name: got 5, allowed is a text"),
        ("colour = 'green'", "colour: got 'green', allowed are red, blue"),
        ("colour = 1", "colour: got 1, allowed are red, blue"),
        ("tag = ['a', 1]", "tag: got 1, allowed is a text"),
        ("max-wait-ms = 1\nmax_wait_ms = 2", "max_wait_ms: it is there twice"),
        ("scheduler = 5", "scheduler: got 5, allowed is a table"),
        ("worker = 3", "worker: got 3, allowed is a table"),
        ("[[worker]]\ncount = 1", "worker: got [{'count': 1}], allowed is a table"),
        ("count = ", "it is no TOML: "),
    ],
)
def test_what_is_not_allowed_is_refused_by_file_and_key(tmp_path: Path, text: str, refusal: str) -> None:
    with pytest.raises(SettingRefused) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"{tmp_path / 'qllm.toml'}: {refusal}")


def test_a_file_that_is_not_there_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingRefused, match=r"nope\.toml: it cannot be read: No such file"):
        read_config_file(tmp_path / "nope.toml", ConfigFile(table="scheduler"), settings_of(Sample))
