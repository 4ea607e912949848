"""Which QLLM service is measured where only one will do: commands that read its books, or start it several ways."""

from dataclasses import dataclass
from typing import Annotated

import typer
from qllm.addresses import AddressRefused, read_target
from qllm.client.async_client import DEFAULT_ADDRESS
from qllm.settings import Setting

_TARGET = "What is measured"


@dataclass(frozen=True, slots=True)
class QllmOptions:
    """One service that runs, or a model to start services with."""

    serve: Annotated[
        str | None,
        Setting(metavar="MODEL", panel=_TARGET),
        "Starts QLLM services with this model for the run, and measures them.",
    ] = None
    grpc: Annotated[
        str | None,
        Setting(metavar="HOST:PORT", panel=_TARGET),
        "Measures the QLLM service that listens here for gRPC.",
    ] = None

    def check(self, num_variants: int = 1) -> None:
        """Checks that one is named, and that services are started where several variants are to be measured.

        Raises:
            typer.BadParameter: None is, or both, or the address is none, or it is one service for several variants.
        """
        if (self.serve is None) == (self.grpc is None):
            given = "none" if self.serve is None else "--serve and --grpc"
            raise typer.BadParameter(f"name one service; given: {given}", param_hint="--serve or --grpc")
        if self.grpc is not None and num_variants > 1:
            raise typer.BadParameter("several set-ups need services of their own: give --serve", param_hint="--grpc")
        try:
            read_target(self.grpc or DEFAULT_ADDRESS)
        except AddressRefused as refusal:
            raise typer.BadParameter(str(refusal), param_hint="--grpc") from None
