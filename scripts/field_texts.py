"""Takes the comments of GenerateRequest's fields out of compiled protos, for the HTTP API, which has the same fields.

Written by `python -m scripts.protos generate`, to be read by scheduler_svc/api/openai/wire/field_texts.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

PATH = Path("scheduler_svc/api/openai/wire/field_texts.json")
_FILE, _REQUEST = "qllm/v1/inference.proto", "GenerateRequest"
# Numbers of fields inside descriptor.proto, which paths of source locations are made of.
_MESSAGES, _FIELDS = 4, 2


def field_texts(descriptors: FileDescriptorSet) -> str:
    """Returns the file: a text for each field of GenerateRequest and of the messages in it, under MESSAGE.FIELD.

    Without its kinds of prompts, which have other names over HTTP, where others have theirs.
    """
    file = next(one for one in descriptors.file if one.name == _FILE)
    comments = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
    texts = {
        f"{message.name}.{field.name}": " ".join(comments[_MESSAGES, number, _FIELDS, index].split())
        for number, message in _messages_within(file)
        for index, field in enumerate(message.field)
        if field.proto3_optional or not field.HasField("oneof_index") or message.name != _REQUEST
    }
    return json.dumps(texts, indent=1, ensure_ascii=False) + "\n"


def _messages_within(file: FileDescriptorProto) -> Iterator[tuple[int, DescriptorProto]]:
    """Yields the request's message, and those that it holds, each once and with its place in the file."""
    numbers = {f".{file.package}.{message.name}": number for number, message in enumerate(file.message_type)}
    names = [f".{file.package}.{_REQUEST}"]
    for name in names:
        message = file.message_type[numbers[name]]
        yield numbers[name], message
        within = (field.type_name for field in message.field if field.type_name in numbers)
        names += [one for one in dict.fromkeys(within) if one not in names]
