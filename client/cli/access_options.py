"""The options by which a command is let in: TLS, a certificate, an API key. Before or after the command's name."""

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer
from qllm.client.access import AccessOptions

_META = "qllm.access"  # in typer's context: what was given; what stands after the command's name wins
_CONTEXT = "access_context"
_chosen: ContextVar[AccessOptions] = ContextVar("access", default=AccessOptions())  # noqa: B039  (nobody changes it)
_OPTIONS: dict[str, Any] = {
    "tls_ca": Annotated[
        Path | None,
        typer.Option(
            envvar="QLLM_TLS_CA",
            metavar="FILE",
            rich_help_panel="Access",
            help="Speaks TLS, and trusts a service whose certificate comes from those in this file, in PEM.",
        ),
    ],
    "tls_cert": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel="Access",
            help="Shows this certificate, in PEM, to a service that asks for one. It goes with --tls-key.",
        ),
    ],
    "tls_key": Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel="Access", help="Names the private key of --tls-cert, in PEM."),
    ],
    "api_key": Annotated[
        str | None,
        typer.Option(
            envvar="QLLM_API_KEY",
            metavar="KEY",
            rich_help_panel="Access",
            help="Sends this API key. Other users of this machine see what stands on a command line: the environment's "
            "QLLM_API_KEY is better.",
        ),
    ],
    "insecure": Annotated[
        bool | None,
        typer.Option(
            "--insecure",
            rich_help_panel="Access",
            help="Sends the API key to another machine without TLS, where whoever reads along sees it.",
        ),
    ],
}


def with_access(command: Callable[..., None]) -> Callable[..., None]:
    """Returns a command for typer that takes these options too; `chosen_access` tells what they were."""
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(command, eval_str=True).parameters.values()
    ]
    own_context = next((one.name for one in parameters if one.annotation is typer.Context), None)

    @functools.wraps(command)
    def taking_access(**given: Any) -> None:
        context: typer.Context = given[own_context] if own_context else given.pop(_CONTEXT)
        own = {name: given.pop(name) for name in _OPTIONS}
        chosen: AccessOptions = context.meta.setdefault(_META, {})
        chosen.update({name: value for name, value in own.items() if value is not None})  # type: ignore[typeddict-item]
        _chosen.set(chosen)
        command(**given)

    parameters += [_keyword(name, kind, None) for name, kind in _OPTIONS.items()]
    if own_context is None:
        parameters.append(_keyword(_CONTEXT, typer.Context, inspect.Parameter.empty))
    taking_access.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    taking_access.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
    return taking_access


def chosen_access() -> AccessOptions:
    """Returns what the command that runs was given to be let in."""
    return _chosen.get()


def _keyword(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
