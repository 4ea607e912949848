"""The protos keep the rules on names that buf has, and say what breaks one."""

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from scripts.protos import compiled, misnamed


def file(text: str) -> FileDescriptorProto:
    parsed = FileDescriptorProto(name="a.proto")
    text_format.Parse(text, parsed)
    return parsed


def test_names_in_the_protos_are_as_bufs_rules_have_them() -> None:
    files = compiled().file
    assert [problem for one in files for problem in misnamed(one)] == []
    assert sum(len(one.service) for one in files) >= 6
    assert sum(service.options.deprecated for one in files for service in one.service) == 3


ZERO = 'value { name: "BATCH_STATE_UNSPECIFIED" number: 0 }'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f'enum_type {{ name: "BatchState" {ZERO} }}', None),
        (
            f'enum_type {{ name: "BatchState" {ZERO} value {{ name: "READY" number: 1 }} }}',
            "BatchState.READY: its name must begin with BATCH_STATE_",
        ),
        (
            f'enum_type {{ name: "BatchState" {ZERO} value {{ name: "A" number: 1 options {{ deprecated: true }} }} }}',
            None,
        ),
        (
            'enum_type { name: "BatchState" value { name: "BATCH_STATE_READY" number: 0 } }',
            "BatchState: the first value must be 0 and end in _UNSPECIFIED",
        ),
        ('service { name: "Inference" }', "Inference: its name must end in Service"),
        ('service { name: "Inference" options { deprecated: true } }', "Inference: its name must end in Service"),
        (
            'service { name: "AService" method { name: "B" } } service { name: "A" options { deprecated: true } }',
            "A: its methods must be those of AService",
        ),
        ('service { name: "AService" } service { name: "A" options { deprecated: true } }', None),
    ],
)
def test_a_name_that_breaks_a_rule_is_told_of(text: str, problem: str | None) -> None:
    assert list(misnamed(file(text))) == ([] if problem is None else [f"a.proto: {problem}"])
