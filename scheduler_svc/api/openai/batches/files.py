"""The files of one tenant: uploads, which are stored, and those of jobs' answers, written when they are read."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from starlette.datastructures import FormData, UploadFile

from scheduler_svc.api.jobs.errors import NoSuchFile
from scheduler_svc.api.openai.batches.objects import (
    PURPOSE,
    OutputFile,
    file_object,
    output_file_object,
    page_object,
)
from scheduler_svc.api.openai.batches.output import output_lines
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.errors import NOTHING, InvalidRequest, Words
from scheduler_svc.jobs.interface import JobFrontDoor
from scheduler_svc.jobs.job import Job, StoredFile
from scheduler_svc.jobs.limits import require_filename

_PIECE_BYTES = 1 << 18
_MAX_SHOWN_CHARS = 60


@dataclass(frozen=True, slots=True)
class Files:
    """A tenant's files. All methods raise NoSuchFile for an id that is none of theirs."""

    door: JobFrontDoor
    tenant: str

    async def keep(self, form: FormData) -> JsonObject:
        """Stores an upload; raises InvalidRequest for a form that has not what is needed."""
        purpose, upload = form.get("purpose"), form.get("file")
        if purpose != PURPOSE:
            raise InvalidRequest("purpose", NOTHING if purpose is None else purpose, repr(PURPOSE))
        if not isinstance(upload, UploadFile):
            raise InvalidRequest("file", NOTHING if upload is None else Words("a text"), "a file with a name")
        other = next((name for name in form if name not in ("purpose", "file")), None)
        if other is not None:
            raise InvalidRequest(other[:_MAX_SHOWN_CHARS], form[other], "nothing: it is not supported")
        require_filename("file", upload.filename or "")
        return self._object(await self.door.create_file(self.tenant, upload.filename or "", PURPOSE, _pieces(upload)))

    async def page(self, after: str | None, limit: int, purpose: str | None) -> JsonObject:
        """Returns a page of uploads, newest first; files of answers are named by their jobs."""
        if purpose not in (None, PURPOSE):
            return page_object([], has_more=False)
        if after is not None:
            await self._upload(after)
        found, has_more = await self.door.files(self.tenant, after, limit)
        return page_object([self._object(file) for file in found], has_more=has_more)

    async def describe(self, file_id: str) -> JsonObject:
        """Returns what is known of a file; one of answers is written for it, to be measured."""
        output = OutputFile.of(file_id)
        if output is None:
            return self._object(await self._upload(file_id))
        job = await self._job_of(output)
        num_bytes = 0
        async with aclosing(output_lines(self.door, job, output)) as lines:
            async for line in lines:
                num_bytes += len(line)
        return output_file_object(output, job, num_bytes, self.door.keep_s)

    async def open(self, file_id: str) -> tuple[AsyncGenerator[bytes, None], str]:
        """Returns a file's bytes in pieces, to be closed by who reads them, and its name."""
        output = OutputFile.of(file_id)
        if output is not None:
            return output_lines(self.door, await self._job_of(output), output), output.filename
        upload = await self._upload(file_id)
        pieces = self.door.read_file(self.tenant, file_id)
        return cast("AsyncGenerator[bytes, None]", pieces), upload.filename

    async def delete(self, file_id: str) -> JsonObject:
        """Deletes an upload; jobs that were made of it have what they need."""
        if OutputFile.of(file_id) is not None:
            raise InvalidRequest("file_id", file_id, "the id of an upload: files of answers stay with their job")
        if not await self.door.delete_file(self.tenant, file_id):
            raise NoSuchFile(file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    def _object(self, file: StoredFile) -> JsonObject:
        return file_object(file, self.door.keep_s)

    async def _upload(self, file_id: str) -> StoredFile:
        file = await self.door.file(self.tenant, file_id)
        if file is None:
            raise NoSuchFile(file_id)
        return file

    async def _job_of(self, output: OutputFile) -> Job:
        job = await self.door.job(self.tenant, output.job_id)
        if job is None:
            raise NoSuchFile(output.file_id)
        return job


async def _pieces(upload: UploadFile) -> AsyncIterator[bytes]:
    while piece := await upload.read(_PIECE_BYTES):
        yield piece
