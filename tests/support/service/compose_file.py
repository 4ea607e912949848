"""docker-compose.yml as docker compose would read it: variables filled in, settings with no value taken or dropped."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.service.live_service import ROOT

COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCKERFILES = {name: ROOT / "deploy" / f"{name}.Dockerfile" for name in ("scheduler", "worker")}

_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def read_compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns the file's content for someone whose shell has this environment."""
    content: dict[str, Any] = _filled_in(yaml.safe_load(COMPOSE_FILE.read_text()), environment or {})
    for service in content["services"].values():
        service["environment"] = _settings(service.get("environment", {}), environment or {})
    return content


def mounts(service: Mapping[str, Any]) -> dict[str, tuple[str, bool]]:
    """Returns the volumes of a service by their place in it: (name or host path, whether it is read-only)."""
    parts = [volume.split(":") for volume in service["volumes"]]
    return {place: (source, options == ["ro"]) for source, place, *options in parts}


def copied_into_images(dockerfile: Path) -> set[str]:
    """Returns what a Dockerfile takes from the build context."""
    lines = [line.split()[1:] for line in dockerfile.read_text().splitlines() if line.startswith("COPY ")]
    return {source for words in lines if not words[0].startswith("--from") for source in words[:-1]}


def _filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled_in(inner, environment) for inner in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: environment.get(match[1]) or match[2], value)
    return value


def _settings(declared: Mapping[str, str | None], environment: Mapping[str, str]) -> dict[str, str]:
    """Fills settings that stand there without a value from the environment; those that it lacks are not set."""
    taken = {name: environment.get(name) if value is None else value for name, value in declared.items()}
    return {name: value for name, value in taken.items() if value is not None}
