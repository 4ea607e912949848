"""Which signals ask a process to end."""

import signal


def stop_signals() -> tuple[signal.Signals, ...]:
    """Returns SIGTERM, SIGINT and SIGHUP; the last one not where it is ignored, as under nohup, which is to stay so."""
    asked = (signal.SIGTERM, signal.SIGINT)
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return asked if is_ignored else (*asked, signal.SIGHUP)
