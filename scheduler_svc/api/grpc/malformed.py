"""Finds out what is wrong with bytes that are not a message, so that the caller is told and not only refused."""

from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import DecodeError, Message

from scheduler_svc.errors import Amount, InvalidRequest

MAX_SHOWN_BYTES = 16


@dataclass(frozen=True, slots=True)
class MalformedRequest:
    """Takes the place of a request whose bytes could not be decoded."""

    error: InvalidRequest


def decode(message_type: type[Message], raw: bytes) -> Message | MalformedRequest:
    """Returns the message, or what is wrong with its bytes. Never raises."""
    try:
        return message_type.FromString(raw)
    except DecodeError:
        return MalformedRequest(_diagnose(cast(Descriptor, message_type.DESCRIPTOR), raw))


def _diagnose(descriptor: Descriptor, raw: bytes) -> InvalidRequest:
    try:
        lenient = _lenient_type(descriptor).FromString(raw)
    except DecodeError:
        return InvalidRequest("request", Amount(len(raw), "bytes"), f"a message of type {descriptor.full_name}")
    broken = _first_broken_string(descriptor, lenient, "")
    if broken is None:
        return InvalidRequest("request", Amount(len(raw), "bytes"), f"a message of type {descriptor.full_name}")
    field, value = broken
    return InvalidRequest(field, value[:MAX_SHOWN_BYTES], "valid UTF-8")


@cache
def _lenient_type(descriptor: Descriptor) -> type[Message]:
    """Returns the message type with its strings declared as bytes, which need not be UTF-8."""
    pool = descriptor_pool.DescriptorPool()
    _add_lenient(pool, descriptor.file, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(descriptor.full_name))


def _add_lenient(pool: descriptor_pool.DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add_lenient(pool, dependency, added)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    pending = list(proto.message_type)
    while pending:
        message = pending.pop()
        pending.extend(message.nested_type)
        is_entry = message.options.map_entry
        for field in message.field:
            if is_entry and field.name == "key":
                continue  # a map's key cannot be bytes
            if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    pool.Add(proto)


def _first_broken_string(descriptor: Descriptor, lenient: Message, path: str) -> tuple[str, bytes] | None:
    """Returns the path and the bytes of the first string that is not UTF-8, looking into messages in messages."""
    for lenient_field, value in lenient.ListFields():
        field = descriptor.fields_by_name[lenient_field.name]
        repeated = not isinstance(value, bytes | Message) and hasattr(value, "__len__")
        for index, item in enumerate(value if repeated else (value,)):
            where = f"{path}{field.name}" + (f"[{index}]" if repeated else "")
            found = _broken_item(field, item, where)
            if found is not None:
                return found
    return None


def _broken_item(field: FieldDescriptor, item: Any, where: str) -> tuple[str, bytes] | None:
    if isinstance(item, Message) and field.message_type is not None:
        return _first_broken_string(field.message_type, item, f"{where}.")
    if field.type == FieldDescriptor.TYPE_STRING and isinstance(item, bytes):
        try:
            item.decode()
        except UnicodeDecodeError:
            return where, item
    return None
