"""`qllm-scheduler new-key TENANT`: makes an API key, shows it once, and prints the entry that lets it in.

qllm-scheduler new-key acme >> keys.toml       the key itself goes to standard error, so that no file has it
"""

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
    """Makes an API key, shows it once, and prints the entry for the file of --api-keys.

    The entry, which holds the key's hash alone, goes to standard output, the key itself to standard error. Give the key
    to the tenant. A running service takes the entry within a second.

    [bold]Example[/bold]

      qllm-scheduler new-key acme >> keys.toml
    """
    key = _PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    permissions = [one.value for one in permission or (Permission.GENERATE,)]
    entry = _entry(tenant, key, permissions, request_class or list(CLASS_WORDS))
    try:
        read_entries(entry)
    except KeysRefused as refusal:
        raise typer.BadParameter(str(refusal).partition(": ")[2]) from None
    typer.echo(f"the key, which is shown this once: {key}", err=True)
    typer.echo(f"\n{entry}", nl=False)


def _entry(tenant: str, key: str, permissions: list[str], classes: list[str]) -> str:
    words = {"permissions": permissions, "classes": classes}
    lists = "".join(f"{name} = [{', '.join(map(_quoted, given))}]\n" for name, given in words.items())
    digest = hashlib.sha256(key.encode()).hexdigest()
    return f"[[keys]]\ntenant = {_quoted(tenant)}\nsha256 = {_quoted(digest)}\n{lists}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
