"""Starts the real binary, waits until it serves, and stops it. Standard library only."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("WEIRGATE_BIN", ROOT / "target/release/weirgate"))
DEMO_MODEL = ROOT / "demo-model/files"

# The launcher reads many variables (PORT, HOSTNAME, MODEL_ID, ...): a test gives only those it means.
KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "RUST_BACKTRACE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds: float, what: str, interval: float = 0.01):
    """Polls until `condition()` is truthy and returns that value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(interval)


def children_of(pid: int) -> list[int]:
    """Process ids whose parent is `pid`, zombies left out."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The second field, the name in parentheses, may itself hold spaces and parentheses.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                children.append(int(stat.parent.name))
    return children


def command_of(pid: int) -> list[bytes]:
    """A process's arguments; none of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def resident_bytes(pid: int, kind: str = "VmRSS") -> int:
    """Of a process; `RssAnon`: without the pages of files."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{kind}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no {kind}")


def run_to_exit(args: list[str], env: dict[str, str] | None = None, seconds: float = 20) -> tuple[int, str, float]:
    """Runs the binary until it exits by itself. Returns the exit code, stdout and stderr together, and the seconds."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            [str(BINARY), *args],
            env=clean_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"still running after {seconds} s: {args}\n{error.output}") from None
    return done.returncode, done.stdout, time.monotonic() - started


def clean_environment(extra: dict[str, str] | None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    # Nor is the cache of whoever runs the tests part of any.
    return kept | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(ROOT / "target/no-hub-cache")} | (extra or {})


class Server:
    """One launcher with its router, in a session of its own, listening on a free loopback port."""

    def __init__(self, log: Path, *args: str, env: dict[str, str] | None = None, port: int | None = None, command=()):
        self.port = port or free_port()
        self.log = log
        self.args = [str(BINARY), *command, "--hostname", "127.0.0.1", "--port", str(self.port), *args]
        self.env = clean_environment(env)
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, ready_seconds: float = 30) -> "Server":
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.args,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_ready(ready_seconds)
        return self

    def wait_ready(self, seconds: float):
        def ready():
            code = self.process.poll()
            assert code is None, f"exited with {code} before it was ready\n{self.output()}"
            return self.health() == 200

        try:
            wait_for(ready, seconds, "ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output()}") from None

    def health(self) -> int | None:
        """The status of GET /health, or None while nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError:
            return None
        except http.client.HTTPException:
            return None
        finally:
            connection.close()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def router_pid(self) -> int:
        children = children_of(self.process.pid)
        assert len(children) == 1, f"the launcher has children {children}, expected the router alone"
        return children[0]

    def terminate(self):
        """SIGTERM to the launcher alone, as container runtimes send it."""
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s\n{self.output()}") from None

    def stop(self, seconds: float = 20):
        """Stops it and asserts that it ended well and left no process behind."""
        if self.process.poll() is None:
            self.terminate()
        code = self.wait_exit(seconds)
        assert code == 0, f"exit code {code}\n{self.output()}"
        # A killed process counts as alive until the kernel has torn it down.
        wait_for(lambda: not self.survivors(), 5, "an end of every process")

    def survivors(self) -> list[int]:
        """Live processes of the server's session, the launcher itself included."""
        members = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    members.append(int(stat.parent.name))
        return members

    def kill(self):
        """Ends whatever is left; for clean-up after a failed test."""
        if self.process is None:
            return
        for pid in self.survivors():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
