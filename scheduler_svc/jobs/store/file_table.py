"""Files in pieces. Each function runs in the transaction that it is called in.

A file that is being written is in several transactions, since it comes as slowly as its sender likes; it is a file for
others once the last one says that it is whole.
"""

from sqlalchemy import Connection, Select, delete, insert, select, update

from scheduler_svc.jobs.job import StoredFile
from scheduler_svc.jobs.store.rows import file_of
from scheduler_svc.jobs.store.schema import file_pieces, files

PIECE_BYTES = 1 << 20


def begin(connection: Connection, file: StoredFile) -> None:
    """Adds a file without content, which nobody sees yet."""
    row = {
        "file_id": file.file_id,
        "tenant": file.tenant,
        "filename": file.filename,
        "purpose": file.purpose,
        "num_bytes": 0,
        "created_at": file.created_at_s,
        "is_whole": False,
    }
    connection.execute(insert(files), row)


def add_piece(connection: Connection, file_id: str, number: int, content: bytes) -> None:
    """Adds the next piece."""
    connection.execute(insert(file_pieces), {"file_id": file_id, "number": number, "content": content})


def complete(connection: Connection, tenant: str, file_id: str, num_bytes: int) -> StoredFile:
    """Shows a file to its tenant, and returns it."""
    connection.execute(update(files).where(files.c.file_id == file_id).values(num_bytes=num_bytes, is_whole=True))
    return file_of(connection.execute(_of_tenant(tenant, file_id)).one())


def get(connection: Connection, tenant: str, file_id: str) -> StoredFile | None:
    """Returns what is known of a file; None if the tenant has none of that id."""
    row = connection.execute(_of_tenant(tenant, file_id)).first()
    return None if row is None else file_of(row)


def newest(connection: Connection, tenant: str, after: str | None, limit: int) -> tuple[list[StoredFile], bool]:
    """Returns files, newest first, those older than `after`; and whether there are more."""
    query = select(files).where(files.c.tenant == tenant, files.c.is_whole).order_by(files.c.file_id.desc())
    if after is not None:
        query = query.where(files.c.file_id < after)
    rows = connection.execute(query.limit(limit + 1)).all()
    return [file_of(row) for row in rows[:limit]], len(rows) > limit


def piece(connection: Connection, tenant: str, file_id: str, number: int) -> bytes | None:
    """Returns a piece of a file; None behind the last one, or if the tenant has no such file."""
    if get(connection, tenant, file_id) is None:
        return None
    query = select(file_pieces.c.content).where(file_pieces.c.file_id == file_id, file_pieces.c.number == number)
    return connection.scalar(query)


def drop(connection: Connection, tenant: str, file_id: str) -> bool:
    """Deletes a file, whole or not; returns False if the tenant has none of that id."""
    owned = delete(files).where(files.c.file_id == file_id, files.c.tenant == tenant)
    return connection.execute(owned).rowcount > 0


def _of_tenant(tenant: str, file_id: str) -> Select[tuple[object, ...]]:
    return select(files).where(files.c.file_id == file_id, files.c.tenant == tenant, files.c.is_whole)
