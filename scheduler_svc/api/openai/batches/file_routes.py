"""The paths below /v1/files."""

from types import MappingProxyType

from fastapi import FastAPI, Query, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from scheduler_svc.api.openai.batches.door import require_door
from scheduler_svc.api.openai.batches.file_body import FileBody
from scheduler_svc.api.openai.batches.files import Files
from scheduler_svc.api.openai.question import JsonObject
from scheduler_svc.api.openai.wire.errors import FormUnreadable
from scheduler_svc.caller import current_tenant
from scheduler_svc.jobs.interface import JobFrontDoor, StoreUnavailable
from scheduler_svc.jobs.limits import MAX_FILE_BYTES

# What stands around the file in the form.
_FORM_BYTES = 1 << 20
MAX_PAGE_SIZE = 10_000
# Paths whose bodies are not read before they are worked on, and how long those may be.
UPLOADS = MappingProxyType({"/v1/files": MAX_FILE_BYTES + _FORM_BYTES})


def add_files(app: FastAPI, door: JobFrontDoor | None) -> None:
    """Adds the paths; without a door each says that no files are kept."""

    def own_files() -> Files:
        return Files(require_door(door), current_tenant())

    @app.post("/v1/files", response_model=None)
    async def upload(request: Request) -> Response:
        """Keeps a file that requests are read from."""
        files = own_files()
        try:
            # On a disk for so long as its form is read: its purpose may come after it.
            async with request.form(max_files=1, max_fields=8) as form:
                kept = await files.keep(form)
        except HTTPException as error:
            raise FormUnreadable(str(error.detail)) from error
        except ClientDisconnect:
            return Response()  # to nobody
        except OSError as error:
            raise StoreUnavailable(f"the upload cannot be kept while it comes in: {error.strerror}") from error
        return JSONResponse(kept)

    @app.get("/v1/files")
    async def page(
        after: str | None = None,
        limit: int = Query(MAX_PAGE_SIZE, ge=1, le=MAX_PAGE_SIZE),
        purpose: str | None = None,
    ) -> JsonObject:
        """Lists uploads, newest first."""
        return await own_files().page(after, limit, purpose)

    @app.get("/v1/files/{file_id}")
    async def describe(file_id: str) -> JsonObject:
        """Describes a file."""
        return await own_files().describe(file_id)

    @app.get("/v1/files/{file_id}/content", response_model=None)
    async def content(file_id: str) -> Response:
        """Returns what is in a file."""
        return FileBody(*await own_files().open(file_id))

    @app.delete("/v1/files/{file_id}")
    async def delete(file_id: str) -> JsonObject:
        """Deletes an upload."""
        return await own_files().delete(file_id)
