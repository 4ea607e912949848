"""How the processes log: one line an event on standard error, as much as the setting says."""

import logging
import sys
from enum import StrEnum

_LINE = "%(asctime)s %(levelname)s pid=%(process)d %(name)s %(message)s"


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


LOG_LEVEL_HELP = "Sets how much is logged."


def set_up_logging(level: LogLevel) -> None:
    """Logs from this level on."""
    logging.basicConfig(level=level.upper(), stream=sys.stderr, format=_LINE)
