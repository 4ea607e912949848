"""Generates what is made from the protos, and checks that it is fresh and that every element is commented.

    python -m scripts.protos generate | check

Python stubs, and the texts of fields that the HTTP API has as well. They are committed, so that neither users nor the
scheduler's image need a compiler.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from filecmp import cmp
from importlib.resources import files
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from scripts import field_texts

ROOT = Path("protos")
PROTOS = sorted(ROOT.glob("qllm/v1/*.proto"))
WELL_KNOWN = files("grpc_tools") / "_proto"
# Numbers of fields inside descriptor.proto, which paths of source locations are made of.
_MESSAGES, _ENUMS, _SERVICES, _FIELDS, _NESTED, _NESTED_ENUMS, _ONEOFS = 4, 5, 6, 2, 3, 4, 8


def protoc(*arguments: str) -> None:
    """Runs the compiler over all protos."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", f"-I{WELL_KNOWN}", *arguments, *map(str, PROTOS)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


def compiled() -> FileDescriptorSet:
    """Returns the protos with their comments."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "set"
        protoc("--include_source_info", f"--descriptor_set_out={out}")
        return FileDescriptorSet.FromString(out.read_bytes())


def generate(out: Path) -> None:
    """Writes the stubs below `out`."""
    bin_dir = Path(sys.executable).parent
    plugins = [f"--plugin=protoc-gen-{name}={bin_dir / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    protoc(f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out={out}", f"--mypy_grpc_out={out}", *plugins)
    for stub in (*out.glob("qllm/v1/control_pb2_grpc.*"),):
        stub.unlink()  # control.proto has no service


def stale_stubs() -> Iterator[str]:
    """Yields the stubs that differ from what the protos give."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        fresh = {p.relative_to(name) for p in Path(name).rglob("*_pb2*")}
        committed = {p.relative_to(ROOT) for p in ROOT.rglob("*_pb2*.py*") if "__pycache__" not in p.parts}
        yield from (f"{path}: not generated from any proto" for path in sorted(committed - fresh))
        for path in sorted(fresh):
            if not (ROOT / path).exists() or not cmp(Path(name) / path, ROOT / path, shallow=False):
                yield f"{path}: stale; run `make protos`"


def lint() -> Iterator[str]:
    """Yields every element without a comment, and every name that is not as buf's STANDARD rules have it."""
    for file in compiled().file:
        commented = {tuple(loc.path) for loc in file.source_code_info.location if loc.leading_comments.strip()}
        for path, label in _elements(file):
            if path not in commented:
                yield f"{file.name}: {label} has no comment"
        yield from misnamed(file)


def misnamed(file: FileDescriptorProto) -> Iterator[str]:
    """Yields what is wrong with the names of a file's enum values and services; former names are deprecated."""
    for enum in file.enum_type:
        if enum.value[0].number != 0 or not enum.value[0].name.endswith("_UNSPECIFIED"):
            yield f"{file.name}: {enum.name}: the first value must be 0 and end in _UNSPECIFIED"
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        for value in enum.value:
            if not value.name.startswith(prefix) and not value.options.deprecated:
                yield f"{file.name}: {enum.name}.{value.name}: its name must begin with {prefix}"
    current = {service.name: service for service in file.service}
    for service in file.service:
        successor = current.get(f"{service.name}Service")
        if service.options.deprecated and successor is not None:
            if [*service.method] != [*successor.method]:
                yield f"{file.name}: {service.name}: its methods must be those of {successor.name}"
        elif not service.name.endswith("Service"):
            yield f"{file.name}: {service.name}: its name must end in Service"


def stale_texts() -> Iterator[str]:
    """Yields the file of fields' texts if it differs from what the protos give."""
    if not field_texts.PATH.exists() or field_texts.PATH.read_text("utf-8") != field_texts.field_texts(compiled()):
        yield f"{field_texts.PATH}: stale; run `make protos`"


def _elements(file: FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    for i, message in enumerate(file.message_type):
        yield from _message_elements(message, (_MESSAGES, i))
    for i, enum in enumerate(file.enum_type):
        yield (_ENUMS, i), enum.name
        yield from (((_ENUMS, i, _FIELDS, j), f"{enum.name}.{value.name}") for j, value in enumerate(enum.value))
    for i, service in enumerate(file.service):
        yield (_SERVICES, i), service.name
        yield from (((_SERVICES, i, _FIELDS, j), f"{service.name}.{m.name}") for j, m in enumerate(service.method))


def _message_elements(message: DescriptorProto, path: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
    if message.options.map_entry:
        return
    yield path, message.name
    yield from (((*path, _FIELDS, j), f"{message.name}.{field.name}") for j, field in enumerate(message.field))
    for j, oneof in enumerate(message.oneof_decl):
        if not oneof.name.startswith("_"):  # the compiler's own, for `optional`
            yield (*path, _ONEOFS, j), f"{message.name}.{oneof.name}"
    for j, nested in enumerate(message.nested_type):
        yield from _message_elements(nested, (*path, _NESTED, j))


def main() -> int:
    """Generates or checks; returns the exit code."""
    match sys.argv[1:]:
        case ["generate"]:
            generate(ROOT)
            field_texts.PATH.write_text(field_texts.field_texts(compiled()), "utf-8")
            return 0
        case ["check"]:
            problems = [*lint(), *stale_stubs(), *stale_texts()]
            print("\n".join(problems) if problems else f"{len(PROTOS)} protos are commented and their stubs fresh")
            return 1 if problems else 0
        case _:
            print("usage: python -m scripts.protos generate | check", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
