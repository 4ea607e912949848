"""`qllm-scheduler new-key TENANT`: makes an API key, shows it once, and prints the entry that lets it in."""

import hashlib
import secrets
from typing import Annotated

import typer

from scheduler_svc.security.grant import CLASS_WORDS, Permission
from scheduler_svc.security.key_entries import KeysRefused, read_entries

_KEY_BYTES = 32
_PREFIX = "qllm_"

Permissions = Annotated[
    list[Permission] | None,
    typer.Option("--permission", help="Allows the key this, generate if left out. It may be given several times."),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        help="Allows requests of this class: ls for latency-sensitive ones, be for best-effort ones, both if left out. "
        "It may be given several times.",
    ),
]


def new_key(
    tenant: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, dots, hyphens, underscores.")],
    permission: Permissions = None,
    request_class: Classes = None,
) -> None:
    """Makes an API key, and prints it and the entry for the file of --api-keys.

    The key is shown this once: the entry holds its hash alone. Give the key to the tenant, and put the entry into the
    file. A running service takes it within a second.
    """
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    permissions = [one.value for one in permission or (Permission.GENERATE,)]
    entry = _entry(tenant, key, permissions, request_class or list(CLASS_WORDS))
    try:
        read_entries(entry)
    except KeysRefused as refusal:
        raise typer.BadParameter(str(refusal).partition(": ")[2]) from None
    typer.echo(f"# The key, shown this once: {key}\n{entry}", nl=False)


def _entry(tenant: str, key: str, permissions: list[str], classes: list[str]) -> str:
    words = {"permissions": permissions, "classes": classes}
    lists = "".join(f"{name} = [{', '.join(map(_quoted, given))}]\n" for name, given in words.items())
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"[[keys]]\ntenant = {_quoted(tenant)}\nsha256 = {_quoted(digest)}\n{lists}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
