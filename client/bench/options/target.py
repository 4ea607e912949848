"""The options that bench commands share besides the load: the server, how one is started, and where results go."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from qllm.addresses import AddressRefused, is_loopback, read_target
from qllm.client.access import NO_ACCESS, Access, AccessRefused
from qllm.client.async_client import DEFAULT_ADDRESS
from qllm.client.bench.load.grpc_target import GrpcTarget
from qllm.client.bench.load.http_target import HttpDialect, HttpTarget, PriorityField
from qllm.client.bench.load.target import Target
from qllm.client.cli.access_options import chosen_access
from qllm.settings import Setting

_TARGET, _SERVICE, _RESULTS = "What is measured", "Starting a service", "Results"


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """Which server, and how it wants to be asked."""

    grpc: Annotated[
        str | None,
        Setting(metavar="HOST:PORT", panel=_TARGET),
        "Measures the QLLM service that listens here for gRPC.",
    ] = None
    http: Annotated[
        str | None,
        Setting(metavar="URL", panel=_TARGET),
        "Measures the server that listens here for OpenAI's API; it may be any such server.",
    ] = None
    serve: Annotated[
        str | None,
        Setting(metavar="MODEL", panel=_TARGET),
        "Starts a QLLM service with this model for the run, and measures it.",
    ] = None
    model: Annotated[
        str | None,
        Setting(metavar="NAME", panel=_TARGET, unset="the first one served"),
        "Names the model to ask the server of --http for.",
    ] = None
    chat: Annotated[
        bool,
        Setting(panel=_TARGET),
        "Asks the server of --http at /v1/chat/completions, with text.",
    ] = False
    priority_field: Annotated[
        PriorityField,
        Setting(panel=_TARGET),
        "Chooses how the server of --http is told the class of a request: service_tier is default or flex, "
        "priority is 0 or 1, as vLLM has it.",
    ] = PriorityField.SERVICE_TIER
    ignore_eos: Annotated[
        bool,
        Setting(panel=_TARGET),
        "Generates exactly as many tokens as are wanted, past the end-of-sequence token.",
    ] = True
    extra_body: Annotated[
        str | None,
        Setting(metavar="JSON", panel=_TARGET),
        "Adds the fields of this JSON object to every request to the server of --http.",
    ] = None

    def check(self) -> None:
        """Checks that one server is named.

        Raises:
            typer.BadParameter: None is, or more than one, or its address is none.
        """
        named = [name for name in ("grpc", "http", "serve") if getattr(self, name) is not None]
        if len(named) != 1:
            given = " and ".join(f"--{name}" for name in named) or "none"
            raise typer.BadParameter(f"name one server; given: {given}", param_hint="--grpc, --http or --serve")
        try:
            read_target(self.grpc or DEFAULT_ADDRESS)
        except AddressRefused as refusal:
            raise typer.BadParameter(str(refusal), param_hint="--grpc") from None
        self._check_access()
        if self.chat and self.http is None:
            raise typer.BadParameter("it is a way to ask a server over --http", param_hint="--chat")

    def _check_access(self) -> None:
        if self.serve is not None:
            return
        url = urlsplit(self.http or "")
        is_local = is_loopback(url.hostname or "") if self.http else read_target(self.grpc or DEFAULT_ADDRESS).is_local
        try:
            access = Access(**chosen_access())
            access.judge()
            speaks_tls = url.scheme == "https" if self.http else access.speaks_tls
            access.require_protection(is_local=is_local, speaks_tls=speaks_tls)
        except AccessRefused as refusal:
            raise typer.BadParameter(str(refusal)) from None

    def target(self, grpc_address: str | None) -> Target:
        """Makes the target: a QLLM service at the address if there is one, or else the server at `http`."""
        access = chosen_access() if self.serve is None else NO_ACCESS  # what is started here asks for nothing
        if grpc_address is not None:
            return GrpcTarget(grpc_address, ignore_eos=self.ignore_eos, access=access)
        dialect = HttpDialect(
            chat=self.chat, priority_field=self.priority_field, ignore_eos=self.ignore_eos, extra=self._extra()
        )
        return HttpTarget(self.http or "", model=self.model, dialect=dialect, access=Access(**access))

    def _extra(self) -> dict[str, object]:
        try:
            extra = json.loads(self.extra_body or "{}")
        except ValueError as error:
            raise typer.BadParameter(f"it is no JSON: {error}", param_hint="--extra-body") from None
        if not isinstance(extra, dict):
            raise typer.BadParameter(f"a JSON object is wanted; given: {self.extra_body}", param_hint="--extra-body")
        return extra


@dataclass(frozen=True, slots=True)
class ServiceArguments:
    """How a service is started."""

    scheduler_arg: Annotated[
        list[str] | None,
        Setting(panel=_SERVICE),
        "Passes an argument on to the scheduler that is started, as in --scheduler-arg=--policy=fcfs. "
        "It may be given several times.",
    ] = None
    worker_arg: Annotated[
        list[str] | None,
        Setting(panel=_SERVICE),
        "Passes an argument on to the worker that is started, as in --worker-arg=--threads=2. "
        "It may be given several times.",
    ] = None

    @property
    def scheduler(self) -> tuple[str, ...]:
        """Options of the scheduler."""
        return tuple(self.scheduler_arg or ())

    @property
    def worker(self) -> tuple[str, ...]:
        """Options of the worker."""
        return tuple(self.worker_arg or ())


_JsonFile = Annotated[
    Path | None,
    Setting(option="json", metavar="FILE", panel=_RESULTS),
    "Writes all results as JSON.",
]


@dataclass(frozen=True, slots=True)
class JsonOptions:
    """Where results go that have no picture."""

    json_file: _JsonFile = None

    def check(self) -> None:
        """Checks that the file can be written, before anything is measured.

        Raises:
            typer.BadParameter: Its folder is not there.
        """
        _check_folders({"--json": self.json_file})


@dataclass(frozen=True, slots=True)
class FigureOptions:
    """Where pictures go."""

    html: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_RESULTS),
        "Writes a page with tables and figures, which needs no network.",
    ] = None
    png: Annotated[
        Path | None,
        Setting(metavar="FILE", panel=_RESULTS),
        "Writes the figure as a picture.",
    ] = None

    @property
    def wants_figures(self) -> bool:
        """Whether anything is to be drawn."""
        return self.html is not None or self.png is not None

    def check(self) -> None:
        """Checks that the files can be written, before anything is measured.

        Raises:
            typer.BadParameter: A folder is not there.
        """
        _check_folders({"--html": self.html, "--png": self.png})


@dataclass(frozen=True, slots=True)
class ResultOptions(FigureOptions):
    """Where results go."""

    json_file: _JsonFile = None

    def check(self) -> None:
        """Checks that the files can be written, before anything is measured.

        Raises:
            typer.BadParameter: A folder is not there.
        """
        _check_folders({"--json": self.json_file, "--html": self.html, "--png": self.png})


def _check_folders(paths: Mapping[str, Path | None]) -> None:
    for name, path in paths.items():
        if path is not None and not path.resolve().parent.is_dir():
            raise typer.BadParameter(f"there is no folder {path.parent} for {path}", param_hint=name)
