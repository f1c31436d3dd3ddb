"""docker-compose.yml, checked without a Docker engine; tests/test_cluster.py runs the scripts that it calls."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.engine.settings import PostgresSettings, Settings

PROJECT = Path(__file__).resolve().parents[1]
COMPOSE = PROJECT / "docker-compose.yml"
CONTRACT = {
    *("ASSAY_LANDING", "ASSAY_LAKEHOUSE", "ASSAY_OUTPUT"),
    *("POSTGRES_HOST", "POSTGRES_PORT", "POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"),
}

# Of the Compose specification: what this project uses or may soon. A key outside is a slip of the pen.
TOP_LEVEL_KEYS = {"name", "services", "volumes", "networks", "secrets", "configs"}
SERVICE_KEYS = {
    *("build", "image", "pull_policy", "platform", "command", "entrypoint", "working_dir", "init", "user", "profiles"),
    *("environment", "env_file", "secrets", "configs", "volumes", "tmpfs", "read_only", "labels", "container_name"),
    *("depends_on", "healthcheck", "restart", "deploy", "stop_signal", "stop_grace_period", "logging"),
    *("ports", "expose", "networks", "hostname", "extra_hosts"),
    *("cap_add", "cap_drop", "security_opt", "cpus", "mem_limit", "shm_size", "ulimits"),
}
BUILD_KEYS = {"context", "dockerfile", "args", "target", "labels", "platforms"}
HEALTHCHECK_KEYS = {"test", "interval", "timeout", "retries", "start_period", "start_interval", "disable"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = compose["services"]
    return loaded


def defaulted(text: object) -> str:
    """The text as Compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text)).replace("$$", "$")


def words(command: str | list[str] | None) -> list[str]:
    parts = shlex.split(defaulted(command)) if isinstance(command, str) else [defaulted(part) for part in command or []]
    return [word for part in parts for word in part.split()]


def test_the_five_services_are_there(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"postgres", "spark-master", "spark-worker", "assay", "api"}
    assert words(services["assay"]["entrypoint"]) + words(services["assay"]["command"]) == [".venv/bin/assay", "run"]
    serve = words(services["api"]["entrypoint"]) + words(services["api"]["command"])
    assert serve == [".venv/bin/assay", "serve", "--host", "0.0.0.0", "--port", "5000"]
    scripts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "assay" in scripts


def test_every_key_is_one_of_the_compose_specification(compose: dict[str, Any]) -> None:
    assert {key for key in compose if not key.startswith("x-")} <= TOP_LEVEL_KEYS
    for name, service in compose["services"].items():
        assert set(service) <= SERVICE_KEYS, name
        assert set(service.get("build", {})) <= BUILD_KEYS, name
        assert set(service.get("healthcheck", {})) <= HEALTHCHECK_KEYS, name


def test_every_service_has_a_health_check_or_waits_for_healthy_ones(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        needs = service.get("depends_on", {})
        assert "healthcheck" in service or needs, name
        assert {need["condition"] for need in needs.values()} <= {"service_healthy"}, name
        assert all("healthcheck" in services[need] for need in needs), name
    assert set(services["assay"]["depends_on"]) == {"postgres", "spark-master", "spark-worker"}


def test_the_runner_is_told_everything_by_the_names_of_the_contract(services: dict[str, dict[str, Any]]) -> None:
    given = set(services["assay"]["environment"])
    settings = {f"ASSAY_{name.upper()}" for name in Settings.model_fields}
    settings |= {f"POSTGRES_{name.upper()}" for name in PostgresSettings.model_fields}
    assert given >= CONTRACT
    assert given <= settings, "a name that Assay does not know"
    assert set(services["postgres"]["environment"]) <= CONTRACT


def test_the_runner_points_at_the_other_services(services: dict[str, dict[str, Any]]) -> None:
    environment = services["assay"]["environment"]
    assert environment["POSTGRES_HOST"] in services
    for name in ("POSTGRES_DB", "POSTGRES_USER", "POSTGRES_PASSWORD"):
        assert environment[name] == services["postgres"]["environment"][name]
    master = services["spark-worker"]["environment"]["SPARK_MASTER_URL"]
    assert environment["ASSAY_MASTER"] == master == "spark://spark-master:7077"
    assert services["spark-master"]["environment"]["SPARK_LOCAL_IP"] == services["spark-master"]["hostname"]


def test_the_http_service_reads_the_same_postgres_and_lands_where_the_runner_looks(
    services: dict[str, dict[str, Any]],
) -> None:
    api, runner = services["api"], services["assay"]
    assert set(api["environment"]) <= CONTRACT | {"ASSAY_API_KEYS"}
    shared = set(api["environment"]) - {"ASSAY_API_KEYS"}
    assert {name: api["environment"][name] for name in shared} == {name: runner["environment"][name] for name in shared}
    assert {name for name in CONTRACT if name.startswith("POSTGRES_")} | {"ASSAY_LANDING"} <= shared
    assert set(api["volumes"]) <= set(runner["volumes"])
    assert api["volumes"][0].endswith(f":{api['environment']['ASSAY_LANDING']}")
    port = words(api["command"])[-1]
    assert [defaulted(published) for published in api["ports"]] == [f"127.0.0.1:5000:{port}"]
    assert words(api["healthcheck"]["test"])[-1] == f"http://127.0.0.1:{port}/health"


def test_spark_services_are_set_by_what_their_scripts_document(services: dict[str, dict[str, Any]]) -> None:
    for name in ("spark-master", "spark-worker"):
        documented = (PROJECT / f"scripts/{name}.sh").read_text()
        assert all(f"#   {variable} " in documented for variable in services[name]["environment"]), name


def test_no_password_is_committed_and_none_is_made_up() -> None:
    for name in ("POSTGRES_PASSWORD", "ASSAY_API_KEYS"):
        values = re.findall(rf"^\s*{name}:\s*(.*)$", COMPOSE.read_text(), re.MULTILINE)
        assert values
        assert all(re.fullmatch(rf"\$\{{{name}:\?[^}}]+\}}", value) for value in values)


def test_ports_are_open_to_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", defaulted(port)) for port in ports)


def test_driver_and_workers_see_the_same_files_at_the_same_paths(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["assay"]["volumes"] == services["spark-worker"]["volumes"]
    mounts = dict(defaulted(volume).split(":")[::-1] for volume in services["assay"]["volumes"])
    for name in ("ASSAY_LANDING", "ASSAY_LAKEHOUSE", "ASSAY_OUTPUT"):
        assert services["assay"]["environment"][name] in mounts, name
    used = {defaulted(volume).split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert used == set(compose["volumes"])


def test_commands_call_scripts_that_exist_and_can_run(services: dict[str, dict[str, Any]]) -> None:
    called = [
        (before, word)
        for service in services.values()
        for command in (service.get("command"), service.get("healthcheck", {}).get("test"))
        for before, word in zip(["", *words(command)], words(command), strict=False)
        if word.startswith("scripts/")
    ]
    assert {word for _, word in called} == {
        "scripts/spark-master.sh",
        "scripts/spark-worker.sh",
        "scripts/spark_health.py",
        "scripts/api_health.py",
    }
    for before, word in called:
        assert (PROJECT / word).is_file(), word
        assert before.endswith("python") or os.access(PROJECT / word, os.X_OK), f"{word} is not executable"


def dockerfile(services: dict[str, dict[str, Any]]) -> Path:
    builds = [service["build"] for service in services.values() if "build" in service]
    assert len(builds) == 4
    assert all(build == builds[0] for build in builds), "what is Assay's own is one image"
    path: Path = PROJECT / builds[0]["context"] / builds[0]["dockerfile"]
    return path


def copied(text: str) -> set[str]:
    """Sources of the Dockerfile's COPY instructions."""
    return {source for line in text.splitlines() if line.startswith("COPY ") for source in line.split()[1:-1]}


def test_the_image_copies_files_that_exist_and_are_sent_to_the_builder(services: dict[str, dict[str, Any]]) -> None:
    path = dockerfile(services)
    sources = copied(path.read_text())
    assert sources
    kept, dropped = ignore_rules(path.with_name("Dockerfile.dockerignore"))
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert source.split("/")[0] in kept, f"{source} is ignored"
        assert not any(fnmatch(source, pattern) for pattern in dropped), f"{source} is ignored"
    assert not {".venv", ".jars", "data", ".git", ".env"} & kept


def ignore_rules(path: Path) -> tuple[set[str], list[str]]:
    """Top-level names kept after `*` has dropped everything, and the patterns dropped from those again."""
    rules = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    return {rule[1:] for rule in rules if rule.startswith("!")}, [
        rule for rule in rules[1:] if not rule.startswith("!")
    ]


def test_the_image_has_all_that_set_up_needs_before_it_runs(services: dict[str, dict[str, Any]]) -> None:
    before, _, after = dockerfile(services).read_text().partition(" make .venv/.ready && ")
    assert after
    rule = re.search(r"^\.venv/\.ready: (.+)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert rule
    assert set(rule[1].split()) <= copied(before)
    assert {"Makefile", "scripts/java.sh", project["project"]["readme"]} <= copied(before)
    assert {f"{package}/__init__.py" for package in packages} <= copied(before)
    assert {*packages, "conf"} <= copied(after)


def test_docker_compose_itself_accepts_the_file(tmp_path: Path) -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker command here")
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("this docker command has no compose plugin")
    config = ["docker", "compose", "--file", str(COMPOSE), "--env-file", os.devnull, "config", "--quiet"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    secrets = {"POSTGRES_PASSWORD": "x", "ASSAY_API_KEYS": "y"}
    complete = subprocess.run(config, env=environment | secrets, capture_output=True, text=True)
    assert complete.returncode == 0, complete.stderr
    for name in secrets:
        given = {other: value for other, value in secrets.items() if other != name}
        without = subprocess.run(config, env=environment | given, capture_output=True, text=True)
        assert without.returncode != 0
        assert name in without.stderr
