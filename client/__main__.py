"""Entry point of `qllm-client` and of `python -m qllm.client`."""

from qllm.client.cli.app import app
from qllm.command_line import run_command


def main() -> None:
    """Runs the command that the arguments name, and ends the process with its exit code."""
    run_command(app, "qllm-client")


if __name__ == "__main__":
    main()
