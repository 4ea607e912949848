"""docker-compose.yml keeps the promises of deploy/README.md. Nothing here needs Docker."""

import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gpu_worker.__main__ import serve as serve_worker
from scheduler_svc.__main__ import serve as serve_scheduler
from tests.support.service.compose_file import COMPOSE_FILE, mounts, read_compose

SCHEMA = "vendor.compose-spec"  # the Compose Specification's own JSON schema, as check-jsonschema ships it
SERVICES = ("scheduler", "worker-cpu", "worker-gpu")
WORKERS = SERVICES[1:]
# The control socket is a file in a private volume: no keys. Nobody starts workers inside the scheduler's container, and
# its file system is read-only: neither a trace nor caches on disk have a place there. A config file would have to be
# mounted first. TLS ends at a proxy in front: the health checks speak plainly.
NOT_OFFERED = {
    "QLLM_TLS_CERT",
    "QLLM_TLS_KEY",
    "QLLM_TLS_CLIENT_CA",
    "QLLM_SPAWN_WORKER",
    "QLLM_CURVE_SECRET_KEY",
    "QLLM_CURVE_WORKER_KEYS",
    "QLLM_CURVE_SERVER_KEY",
    "QLLM_SIMULATED",
    "QLLM_STATE_DIR",
    "QLLM_OFFLOAD_DIR",
    "QLLM_OFFLOAD_DISK_GIB",
    "QLLM_TRACE",
    "QLLM_TRACE_MAX_MIB",
    "QLLM_CONFIG",
    "QLLM_RECORD_COSTS",
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose()


@pytest.fixture
def service(compose: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"][request.param]
    return found


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", names, indirect=True)


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMA, str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_file_follows_the_compose_schema() -> None:
    result = validate(COMPOSE_FILE)
    assert result.returncode == 0, result.stdout + result.stderr


def test_compose_schema_notices_a_misspelled_key(tmp_path: Path) -> None:
    content = yaml.safe_load(COMPOSE_FILE.read_text())
    content["services"]["scheduler"]["read_onyl"] = True
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(yaml.safe_dump(content))
    result = validate(broken)
    assert result.returncode == 1
    assert "read_onyl" in result.stdout


def test_every_variable_has_a_default(compose: dict[str, Any]) -> None:
    assert "$" not in yaml.safe_dump(compose)


def test_only_the_ports_of_grpc_http_and_metrics_are_published_and_on_loopback(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    ports = ["127.0.0.1:50051:50051", "127.0.0.1:8000:8000", "127.0.0.1:9464:9464"]
    assert published == {"scheduler": ports}
    assert all(ip_address(port.split(":")[0]).is_loopback for port in published["scheduler"])


def test_published_address_can_be_changed() -> None:
    ports = {"QLLM_PUBLISH_PORT": "9000", "QLLM_PUBLISH_HTTP_PORT": "80", "QLLM_PUBLISH_METRICS_PORT": "81"}
    published = read_compose({"QLLM_PUBLISH_HOST": "10.0.0.7", **ports})["services"]["scheduler"]["ports"]
    assert published == ["10.0.0.7:9000:50051", "10.0.0.7:80:8000", "10.0.0.7:81:9464"]


@each(*SERVICES)
def test_service_has_no_rights_that_it_does_not_need(service: dict[str, Any]) -> None:
    uid, gid = service["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & service.keys()


@each(*SERVICES)
def test_service_can_be_run_for_long(service: dict[str, Any]) -> None:
    assert service["init"] is True
    assert service["restart"] == "unless-stopped"
    assert service["stop_grace_period"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert service["logging"]["options"]["max-size"]
    assert any(place.startswith("/tmp:size=") for place in service["tmpfs"])


@each(*SERVICES)
def test_service_has_a_health_check_over_grpc(service: dict[str, Any]) -> None:
    check = service["healthcheck"]
    assert check["test"][:3] == ["CMD", "qllm-client", "health"]
    assert check["test"][-1].endswith(":50051")
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()


@each(*SERVICES)
def test_control_channel_is_a_socket_in_the_shared_volume(service: dict[str, Any]) -> None:
    endpoint = option(service, "--control-endpoint")
    assert endpoint.startswith("ipc://")
    directory = Path(endpoint.removeprefix("ipc://")).parent
    assert mounts(service)[str(directory)][0] == "control"


def test_tcp_is_used_nowhere_for_control() -> None:
    assert "tcp://" not in COMPOSE_FILE.read_text()


def test_control_volume_belongs_to_the_user_of_all_services_alone(compose: dict[str, Any]) -> None:
    (user,) = {service["user"] for service in compose["services"].values()}
    uid, gid = user.split(":")
    volume = compose["volumes"]["control"]["driver_opts"]
    assert volume["type"] == "tmpfs"
    assert {f"uid={uid}", f"gid={gid}", "mode=0700"} <= set(volume["o"].split(","))


def test_all_named_volumes_and_networks_are_declared(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    assert {source for service in services for source, _ in mounts(service).values()} == compose["volumes"].keys()
    assert {network for service in services for network in service["networks"]} == compose["networks"].keys()


@each(*WORKERS)
def test_worker_can_change_neither_models_nor_the_control_directory(service: dict[str, Any]) -> None:
    assert mounts(service) == {"/run/qllm": ("control", True), "/models": ("models", True)}


@each(*WORKERS)
def test_worker_has_no_way_out(compose: dict[str, Any], service: dict[str, Any]) -> None:
    assert all(compose["networks"][network]["internal"] for network in service["networks"])


def test_api_keys_come_from_a_directory_of_the_host_that_the_scheduler_alone_sees() -> None:
    services = read_compose({"QLLM_KEYS_DIR": "/srv/keys"})["services"]
    assert mounts(services["scheduler"])["/etc/qllm/keys"] == ("/srv/keys", True)
    assert all("/etc/qllm/keys" not in mounts(services[name]) for name in WORKERS)


def test_models_may_come_from_a_directory_of_the_host() -> None:
    worker = read_compose({"QLLM_MODELS": "/srv/models"})["services"]["worker-cpu"]
    assert mounts(worker)["/models"] == ("/srv/models", True)


@each(*WORKERS)
def test_worker_does_not_wait_for_a_health_that_it_brings_about(service: dict[str, Any]) -> None:
    assert service["depends_on"] == {"scheduler": {"condition": "service_started"}}


def test_one_profile_starts_one_worker(compose: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {"scheduler": None, "worker-cpu": ["cpu"], "worker-gpu": ["gpu"]}


def test_only_the_gpu_worker_reserves_a_gpu(compose: dict[str, Any]) -> None:
    reserving = {name: service["deploy"] for name, service in compose["services"].items() if "deploy" in service}
    (device,) = reserving.pop("worker-gpu")["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert reserving == {}


def test_each_worker_gets_the_torch_of_its_device(compose: dict[str, Any]) -> None:
    cpu, gpu = (compose["services"][name] for name in WORKERS)
    assert cpu["build"]["args"]["TORCH_INDEX_URL"].endswith("/cpu")
    assert option(cpu, "--device") == "cpu"
    assert not gpu["build"]["args"]["TORCH_INDEX_URL"].endswith("/cpu")
    assert option(gpu, "--device") == "cuda"
    assert cpu["image"] != gpu["image"]


@pytest.mark.parametrize(
    ("name", "serve", "elsewhere"),
    [
        ("scheduler", serve_scheduler, {"QLLM_MODEL"}),  # the worker's
        ("worker-cpu", serve_worker, set()),
        ("worker-gpu", serve_worker, set()),
    ],
)
def test_every_setting_of_the_process_is_passed_on(name: str, serve: Callable[..., None], elsewhere: set[str]) -> None:
    service = yaml.safe_load(COMPOSE_FILE.read_text())["services"][name]
    fixed = {argument.split("=")[0] for argument in service["command"][1:]}
    settings = {envvar for flag, envvar in options(serve).items() if flag not in fixed}
    assert settings - NOT_OFFERED - elsewhere == {key for key in service["environment"] if key.startswith("QLLM_")}


def option(service: dict[str, Any], flag: str) -> str:
    (value,) = [word.removeprefix(f"{flag}=") for word in service["command"] if word.startswith(f"{flag}=")]
    return str(value)


def options(serve: Callable[..., None]) -> dict[str, str]:
    """Returns the flags of a process with their environment variables."""
    app = typer.Typer()
    app.command()(serve)
    return {
        parameter.opts[0]: str(parameter.envvar)
        for parameter in typer.main.get_command(app).params
        if parameter.envvar is not None
    }
