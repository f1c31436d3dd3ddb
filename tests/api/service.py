"""A real `assay serve` process, for tests."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ASSAY = Path(sys.executable).with_name("assay")
START_SECONDS = 90.0


class Service:
    """`client` talks to it. Entries land in `folder`; `log` is what it wrote to stderr."""

    def __init__(self, place: Path, *options: str, file_limit: str | None = None, **variables: str) -> None:
        self.landing = place / "landing"
        self.folder = self.landing / "members"
        self.port = 0
        self._options = options
        self._file_limit = file_limit
        self._stderr = place / "stderr"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ASSAY_", "POSTGRES_"))}
        self._environment = {
            **inherited,
            "ASSAY_LANDING": str(self.landing),
            "ASSAY_DATABASE": str(place / "postgres"),
            **variables,
        }

    def __enter__(self) -> "Service":
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.poll() is None:
            self.stop()
        self.client.close()

    def start(self) -> "Service":
        """Starts it, at the same port if it ran before, and waits until it answers."""
        command = [str(ASSAY), "serve", "--port", str(self.port), *self._options]
        if self._file_limit:  # in blocks of 1024 bytes
            command = ["bash", "-c", f'ulimit -f {self._file_limit} && exec "$@"', "bash", *command]
        with self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                preexec_fn=_take_hang_ups,
            )
        assert self._process.stdout
        self.announced = ""
        while "/api/v1/" not in self.announced:
            line = self._process.stdout.readline()
            assert line, f"it did not start: {self._stderr.read_text()}"
            self.announced += line
        self.url = self.announced.split()[2]
        self.port = int(self.url.rpartition(":")[2])
        # Threads share the client: its pool may close a connection that it calls surplus under another thread's request
        # (encode/httpcore#1110), so none is surplus.
        limits = httpx.Limits(max_keepalive_connections=None)
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30, limits=limits)
        return self

    def kill(self) -> None:
        """As a crash would end it."""
        self._process.kill()
        self._process.wait()

    def stop(self, *signals: signal.Signals) -> int:
        """As an operator would stop it, by SIGTERM or by these, 20 ms apart; returns its exit code."""
        for number in signals or (signal.SIGTERM,):
            self._process.send_signal(number)
            time.sleep(0.02)
        return self._process.wait(timeout=60)

    def post(self, body: str | bytes, **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post("/member", content=body, headers=names)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines()]

    def await_log(self, request_id: str, seconds: float = 10) -> list[dict[str, Any]]:
        """The lines with this id. They are written when the answer is on its way already."""
        give_up_at = time.monotonic() + seconds
        while not any("route" in line and line["request_id"] == request_id for line in self.log()):
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        return [line for line in self.log() if line.get("request_id") == request_id]

    def landed_files(self) -> list[Path]:
        """What the job sees: names that do not begin with a dot."""
        return sorted(self.folder.glob("[!._]*.log"))

    def hidden_files(self) -> list[Path]:
        return sorted(self.folder.glob(".*"))

    def landed(self) -> Counter[str]:
        """The lines that the job sees."""
        return Counter(line for file in self.landed_files() for line in _lines(file))

    def await_landed(self, count: int, seconds: float = 20) -> Counter[str]:
        """The same, once there are so many."""
        give_up_at = time.monotonic() + seconds
        while (landed := self.landed()).total() < count and time.monotonic() < give_up_at:
            time.sleep(0.05)
        return landed


def _take_hang_ups() -> None:
    """Also if the tests are run under nohup, which lets what it starts ignore them."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _lines(file: Path) -> list[str]:
    content = file.read_bytes()
    assert content.endswith(b"\n"), "the last line is torn"
    return content.decode().removesuffix("\n").split("\n")
