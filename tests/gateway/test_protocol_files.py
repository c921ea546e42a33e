"""The proto files are a public interface: documented to the last field, room to grow, and the committed code is theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "proto").glob("cluster/v1/*.proto"))
GENERATE = [sys.executable, str(ROOT / "proto" / "generate.py")]


@pytest.fixture(name="described", scope="module")
def compile_with_comments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    """Every proto file by name, with its comments."""
    target = tmp_path_factory.mktemp("descriptors") / "set"
    arguments = [f"--proto_path={ROOT / 'proto'}", "--include_source_info", f"--descriptor_set_out={target}"]
    assert protoc.main(["protoc", *arguments, *map(str, FILES)]) == 0
    compiled = FileDescriptorSet.FromString(target.read_bytes())
    return {file.name: file for file in compiled.file}


def uncommented(file: FileDescriptorProto) -> list[str]:
    """Everything that is declared in the file and has no comment above it."""
    commented = {tuple(location.path) for location in file.source_code_info.location if location.leading_comments.strip()}
    missing = []

    def check(path: tuple[int, ...], name: str) -> None:
        if path not in commented:
            missing.append(name)

    def message(path: tuple[int, ...], declared: DescriptorProto, name: str) -> None:
        if declared.options.map_entry:
            return
        check(path, name)
        for number, field in enumerate(declared.field):
            check((*path, 2, number), f"{name}.{field.name}")
        for number, nested in enumerate(declared.nested_type):
            message((*path, 3, number), nested, f"{name}.{nested.name}")

    def enumeration(path: tuple[int, ...], declared: EnumDescriptorProto) -> None:
        check(path, declared.name)
        for number, value in enumerate(declared.value):
            check((*path, 2, number), value.name)

    for number, declared in enumerate(file.message_type):
        message((4, number), declared, declared.name)
    for number, enum in enumerate(file.enum_type):
        enumeration((5, number), enum)
    for number, service in enumerate(file.service):
        check((6, number), service.name)
        for index, method in enumerate(service.method):
            check((6, number, 2, index), f"{service.name}.{method.name}")
    return missing


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_that_is_declared_is_documented(path: Path, described: dict[str, FileDescriptorProto]) -> None:
    assert uncommented(described[f"cluster/v1/{path.name}"]) == []


def test_every_enum_begins_with_unspecified(described: dict[str, FileDescriptorProto]) -> None:
    enums = [enum for file in described.values() for enum in file.enum_type]
    assert len(enums) >= 6
    for enum in enums:
        assert enum.value[0].number == 0
        assert enum.value[0].name.endswith("_UNSPECIFIED")
        prefix = enum.value[0].name.removesuffix("UNSPECIFIED")
        assert all(value.name.startswith(prefix) for value in enum.value)


def test_every_method_has_a_request_and_a_response_of_its_own(described: dict[str, FileDescriptorProto]) -> None:
    methods = [method for file in described.values() for service in file.service for method in service.method]
    for method in methods:
        assert method.input_type == f".cluster.v1.{method.name}Request"
        assert method.output_type == f".cluster.v1.{method.name}Response"


def test_the_messages_of_a_session_keep_cheap_numbers_free(described: dict[str, FileDescriptorProto]) -> None:
    """Numbers up to 15 take one byte; the messages that travel most must still have some when they grow."""
    messages = {message.name: message for message in described["cluster/v1/documents.proto"].message_type}
    for name in ("SessionRequest", "SessionResponse", "Operation", "Event", "Reply", "Delta", "Error"):
        assert messages[name].reserved_range, f"{name} reserves no room"


def test_the_committed_code_is_what_the_compiler_makes() -> None:
    run = subprocess.run([*GENERATE, "--check"], capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
