"""Entry point of `qllm-client` and of `python -m client`."""

from client.cli import app


def main() -> None:
    """Runs the command that the arguments name, and ends the process with its exit code."""
    app(prog_name="qllm-client")


if __name__ == "__main__":
    main()
