"""An OpenAI-compatible server that is a script, over plain sockets: it sends exactly the bytes that a test asks for."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
Script = Callable[[Body], list[bytes]]


def completion(num_tokens: int, *, token_ids: bool = True, usage: bool = True) -> list[bytes]:
    """The events of an answer, one token each."""
    events: list[Body] = []
    for number in range(num_tokens):
        choice: Body = {"index": 0, "text": f"{number} ", "finish_reason": None}
        events.append({"choices": [choice | ({"token_ids": [number]} if token_ids else {})]})
    events.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    if usage:
        events.append({"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": num_tokens}})
    return [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]


@dataclass
class FakeOpenAI:
    """Answers each request with its script's pieces, `step_s` apart.

    Attributes:
        script: Makes the pieces of an answer.
        refused_fields: A request that has one of these is answered with 400.
        status: What other requests are answered with.
        slots: How many requests are worked on at a time; others wait.
    """

    script: Script = lambda body: completion(body["max_tokens"])
    refused_fields: tuple[str, ...] = ()
    status: int = 200
    step_s: float = 0.0
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1000))
    bodies: list[Body] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                self.paths.append(lines[0].split()[1])
                await self._answer(writer, json.loads(content) if content else None)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: Body | None) -> None:
        if body is None:
            return await self._send(writer, 200, b'{"data": [{"id": "first"}, {"id": "second"}]}')
        self.bodies.append(body)
        refused = [name for name in self.refused_fields if name in body]
        if refused or self.status != 200:
            text = f"unknown field {refused[0]}" if refused else "the server said no"
            return await self._send(writer, 400 if refused else self.status, text.encode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        async with self.slots:
            for piece in self.script(body):
                await asyncio.sleep(self.step_s)
                writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        return await writer.drain()

    async def _send(self, writer: asyncio.StreamWriter, status: int, content: bytes) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
