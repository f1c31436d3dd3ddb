"""A standalone cluster on loopback, started by the scripts that docker-compose.yml calls, and a job submitted to it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from jobs.engine.database import Database
from jobs.engine.session import JAVA_FOR_FEW_ROWS, JAVA_OPTIONS, PROJECT, _default
from scripts.spark_health import find_problem, master_state
from tests.conftest import FAST_FOR_FEW_ROWS, Sample
from tests.lab import Place

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
SECONDS_TO_START = 60
# As /proc/net/tcp and tcp6 write 127.0.0.1, ::ffff:127.0.0.1 and ::1.
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
LISTENING = "0A"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def without_spark(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what an earlier session of this process may have set."""
    return {name: value for name, value in environment.items() if not name.startswith(("SPARK_", "PYSPARK_"))}


@contextmanager
def running(script: str, log: Path, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """The script in the foreground of its own process, ended by its id."""
    environment = without_spark(os.environ) | {name: str(value) for name, value in settings.items()}
    with log.open("wb") as output:
        process = subprocess.Popen([SCRIPTS / script], env=environment, stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(frozen=True)
class Cluster:
    master: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    web_page: str
    url: str
    worker_dir: Path


def wait_until_healthy(web_page: str, workers: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline, problem = time.monotonic() + SECONDS_TO_START, "not asked yet"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            state = master_state(web_page)
            alive = state["aliveworkers"]
            problem = find_problem(state, None) or (f"{alive} of {workers} workers" if alive < workers else "")
        except (OSError, ValueError) as error:
            problem = str(error)
        if not problem:
            return
        time.sleep(0.3)
    pytest.fail(f"{problem}\n{log.read_text()}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    port, web_port, worker_port, worker_web_port = free_ports(4)
    url, web_page, logs = (
        f"spark://127.0.0.1:{port}",
        f"http://127.0.0.1:{web_port}",
        (folder / "m.log", folder / "w.log"),
    )
    master_settings = {"SPARK_MASTER_PORT": port, "SPARK_MASTER_WEBUI_PORT": web_port}
    worker_settings = {
        "SPARK_MASTER_URL": url,
        "SPARK_WORKER_PORT": worker_port,
        "SPARK_WORKER_WEBUI_PORT": worker_web_port,
        "SPARK_WORKER_CORES": 1,
        "SPARK_WORKER_MEMORY": "1g",
        "SPARK_WORKER_DIR": folder / "worker",
    }
    with running("spark-master.sh", logs[0], **master_settings) as master:
        wait_until_healthy(web_page, 0, master, logs[0])
        others = {"SPARK_WORKER_PORT": 0, "SPARK_WORKER_WEBUI_PORT": 0, "SPARK_WORKER_DIR": folder / "worker 2"}
        with (
            running("spark-worker.sh", logs[1], **worker_settings) as worker,
            running("spark-worker.sh", folder / "w2.log", **{**worker_settings, **others}),
        ):
            wait_until_healthy(web_page, 2, worker, logs[1])
            yield Cluster(master, worker, web_page, url, folder / "worker")


def test_the_worker_is_alive_with_what_it_was_told_to_offer(cluster: Cluster) -> None:
    state = master_state(cluster.web_page)
    assert (state["status"], state["url"]) == ("ALIVE", cluster.url)
    offers = [(worker["host"], worker["state"], worker["cores"], worker["memory"]) for worker in state["workers"]]
    assert ("127.0.0.1", "ALIVE", 1, 1024) in offers
    assert cluster.worker_dir.is_dir()


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs /proc to see who listens where")
def test_master_and_worker_listen_on_loopback_only(cluster: Cluster) -> None:
    for process in (cluster.master, cluster.worker):
        addresses = listening_addresses(process.pid)
        assert len(addresses) == 2, "its port and its web page; no REST port that takes jobs from anybody"
        assert set(addresses) <= LOOPBACK


@pytest.mark.parametrize(
    ("worker_host", "code", "says"),
    [
        ([], 0, "alive: spark://127.0.0.1:"),
        (["127.0.0.1"], 0, "2 worker(s)"),
        (["203.0.113.7"], 1, "no alive Spark worker on 203.0.113.7; workers: 127.0.0.1 ALIVE, 127.0.0.1 ALIVE"),
    ],
)
def test_the_health_check_tells_what_is_up(cluster: Cluster, worker_host: list[str], code: int, says: str) -> None:
    checked = health(cluster.web_page, *worker_host)
    assert checked.returncode == code
    assert says in checked.stdout + checked.stderr


def test_a_second_cluster_where_one_is_starts_nothing(cluster: Cluster) -> None:
    ports = {"SPARK_MASTER_WEBUI_PORT": cluster.web_page.rpartition(":")[2]}
    second = subprocess.run(
        [SCRIPTS / "cluster.sh", "true"],
        env=without_spark(os.environ) | ports,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"error: another cluster is there: alive: {cluster.url}, 2 worker(s)" in second.stderr


def test_spark_submit_runs_all_sources_on_the_cluster_as_a_local_run_does(
    cluster: Cluster, sample: Sample, tmp_path: Path, database: Database
) -> None:
    other = Place(tmp_path, database)
    # The same records get the same ids where the secret is the same.
    secrets = Path(other.settings.lakehouse, "ops/id_secrets")
    shutil.copytree(Path(sample.place.settings.lakehouse, "ops/id_secrets"), secrets)
    submit = ["spark-submit", "--properties-file", "conf/spark-defaults.conf"]
    submit += ["--master", cluster.url, "--executor-memory", "900m"]
    light = {
        **FAST_FOR_FEW_ROWS,
        "spark.driver.memory": "1g",
        JAVA_OPTIONS: f"{_default(PROJECT / 'conf/spark-defaults.conf', JAVA_OPTIONS)} {JAVA_FOR_FEW_ROWS}",
        "spark.executor.extraJavaOptions": f"-Duser.timezone=UTC {JAVA_FOR_FEW_ROWS} -XX:ReservedCodeCacheSize=240m",
    }
    submit += [word for name, value in light.items() for word in ("--conf", f"{name}={value}")]
    environment = other.environment() | {"ASSAY_LANDING": sample.place.settings.landing}
    # As in a shell in which .venv/bin/activate was called.
    environment = without_spark(environment) | {
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    job = subprocess.run(
        [*submit, "jobs/run.py"],
        cwd=SCRIPTS.parent, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert job.returncode == 3, job.stdout + job.stderr  # the samples have empty files
    assert f"master {cluster.url}" in job.stdout
    tables = "SELECT table_name, row_count, checksum FROM ops.release_tables ORDER BY 1"
    assert other.query(tables) == sample.place.query(tables)
    assert visible_files(other.output) == visible_files(sample.place.output)


def test_a_cluster_for_one_command(tmp_path: Path) -> None:
    master, web_page = free_ports(2)
    ports = {"SPARK_MASTER_PORT": str(master), "SPARK_MASTER_WEBUI_PORT": str(web_page)}
    environment = os.environ | ports | {"CLUSTER_WORKERS": "1"}
    checked = f"{sys.executable} scripts/spark_health.py http://127.0.0.1:{web_page} 127.0.0.1"
    ran = subprocess.run(
        [SCRIPTS / "cluster.sh", "bash", "-c", f"echo $SPARK_MASTER_URL; {checked}; exit 5"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.stdout == f"spark://127.0.0.1:{master}\nalive: spark://127.0.0.1:{master}, 1 worker(s)\n"
    assert ran.returncode == 5
    assert "no Spark master answers" in health(f"http://127.0.0.1:{web_page}").stderr


def test_the_health_check_fails_where_nothing_answers() -> None:
    checked = health(f"http://127.0.0.1:{free_ports(1)[0]}")
    assert checked.returncode == 1
    assert "no Spark master answers" in checked.stderr


@pytest.mark.parametrize("text", ["<!DOCTYPE html><html></html>", "[]", '{"workers": []}'])
def test_what_is_no_state_of_a_master_is_not_healthy(tmp_path: Path, text: str) -> None:
    (tmp_path / "json").mkdir()
    (tmp_path / "json/index.html").write_text(text)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        checked = health(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert checked.returncode == 1
    assert "the answer is not the state of a Spark master, or not yet" in checked.stderr


def test_the_health_check_explains_itself() -> None:
    checked = health()
    assert checked.returncode == 2
    assert "the master is alive" in checked.stderr


def test_a_master_that_is_not_in_charge_is_not_healthy() -> None:
    assert find_problem({"status": "STANDBY", "workers": []}, None) == "the Spark master is STANDBY"


@pytest.mark.parametrize("script", ["spark-master.sh", "spark-worker.sh"])
def test_without_set_up_the_scripts_say_what_to_do(tmp_path: Path, script: str) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    started = subprocess.run([tmp_path / "scripts" / script], capture_output=True, text=True, timeout=30)
    assert started.returncode == 2
    assert "call make setup" in started.stderr


def listening_addresses(process_id: int) -> list[str]:
    """The address of every TCP port that the process itself listens on, in the kernel's notation."""
    files = [os.readlink(file) for file in Path(f"/proc/{process_id}/fd").iterdir() if file.is_symlink()]
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return [line[1].split(":")[0] for line in lines if line[3] == LISTENING and f"socket:[{line[9]}]" in files]


def visible_files(folder: Path) -> dict[Path, bytes]:
    files = [file for file in folder.rglob("*.*") if not file.name.startswith(".")]
    return {file.relative_to(folder): file.read_bytes() for file in files}


def health(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPTS / "spark_health.py", *arguments], capture_output=True, text=True)
