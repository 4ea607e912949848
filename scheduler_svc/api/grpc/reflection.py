"""Serves server reflection in both of its versions, v1 and v1alpha, with the library's servicer.

The two differ in the package's name alone: the same bytes are the same messages. The library has v1alpha only, so v1's
description is made from it, and its method reads and writes v1alpha's messages.
"""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

_ALPHA, _STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
_STABLE_FILE = "grpc/reflection/v1/reflection.proto"
_STABLE_SERVICE = f"{_STABLE}.ServerReflection"


def add_reflection(service_names: tuple[str, ...], server: grpc.aio.Server) -> None:
    """Lets clients list `service_names` and reflection itself, and ask for their descriptions."""
    names = (*service_names, reflection.SERVICE_NAME, _STABLE_SERVICE)
    _describe_stable()
    reflection.enable_server_reflection(names, server)
    method = grpc.stream_stream_rpc_method_handler(
        reflection.aio.ReflectionServicer(names).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(_STABLE_SERVICE, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handler,))


def _describe_stable() -> None:
    """Adds v1's description to the pool that is reflected, unless some library brought it."""
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_STABLE_FILE)
    except KeyError:
        alpha = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(alpha)
        stable = descriptor_pb2.FileDescriptorProto()
        text_format.Parse(text_format.MessageToString(alpha).replace(_ALPHA, _STABLE), stable)
        stable.name = _STABLE_FILE
        pool.Add(stable)
