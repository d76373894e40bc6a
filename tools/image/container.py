"""A container without a container engine: a folder as its root, and process, mount, network and host-name namespaces of
its own. Linux, root, util-linux and iproute2."""

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

# What container engines set for every process.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START = """
set -e
hostname "$NAME"
ip link set lo up
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
for volume in $VOLUMES; do mount --bind "$ROOT$volume" "$ROOT$volume"; done
[ -z "$READ_ONLY" ] || mount -o remount,ro,bind "$ROOT"
exec chroot --userspec="$USER_ID:$USER_ID" "$ROOT" /usr/bin/env -i "$@"
"""


class Container:
    """One running container. `env` is its whole environment, `command` its process 1."""

    def __init__(self, root: Path, command: list[str], env: dict[str, str], log: Path, **options):
        self.name, self.log = options.get("name", "3f2a9c01b7de"), log
        variables = {"PATH": PATH, "HOSTNAME": self.name, "HOME": "/root"} | env
        settings = {
            "PATH": PATH,
            "ROOT": str(root),
            "NAME": self.name,
            "USER_ID": str(options.get("user", 0)),
            "READ_ONLY": "yes" if options.get("read_only") else "",
            "VOLUMES": " ".join(options.get("volumes", [])),
        }
        pairs = [f"{name}={value}" for name, value in variables.items()]
        namespaces = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
        with open(log, "wb") as out:
            self.outer = subprocess.Popen(
                [*namespaces, "sh", "-c", START, "sh", *pairs, *command],
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.started = time.monotonic()
        self.pid = None

    def first_process(self) -> int | None:
        """Process 1 of the container, by its number outside."""
        if self.pid is None:
            with contextlib.suppress(OSError, IndexError):
                children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children").read_text()
                self.pid = int(children.split()[0])
        return self.pid

    def curl(self, *arguments: str, seconds: float = 20) -> tuple[int, str]:
        """Status and body of a request made inside; status 0 where nothing answers."""
        pid = self.first_process()
        if pid is None:
            return 0, ""
        enter = ["nsenter", "--target", str(pid), "--net"]
        request = ["curl", "--silent", "--max-time", str(seconds), "--write-out", "\n%{http_code}", *arguments]
        body, _, status = subprocess.run([*enter, *request], stdout=subprocess.PIPE, text=True).stdout.rpartition("\n")
        return int(status or 0), body

    def post(self, url: str, body: dict) -> tuple[int, str]:
        return self.curl("--json", json.dumps(body), url)

    def until_answers(self, url: str, seconds: float = 60) -> float:
        """Waits for status 200; the seconds since the start."""
        while time.monotonic() < self.started + seconds:
            if self.outer.poll() is not None:
                break
            if self.curl(url, seconds=2)[0] == 200:
                return time.monotonic() - self.started
            time.sleep(0.05)
        raise SystemExit(f"{url} does not answer\n{self.log.read_text(errors='replace')}")

    def processes(self) -> list[str]:
        """Command lines inside."""
        listing = ["nsenter", "--target", str(self.first_process()), "--pid", "--mount", "--root", "sh", "-c"]
        script = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done"
        found = subprocess.run([*listing, script], stdout=subprocess.PIPE, text=True).stdout
        return [line.strip() for line in found.splitlines() if line.strip() and not line.startswith(("sh -c", "tr "))]

    def terminate(self, seconds: float) -> tuple[int, float]:
        """SIGTERM to process 1, as platforms stop a container; its exit status and how long it took."""
        begin = time.monotonic()
        subprocess.run(["kill", "-TERM", str(self.first_process())], check=True)
        code = self.outer.wait(seconds)
        return code, time.monotonic() - begin

    def kill(self):
        if self.outer.poll() is None:
            if pid := self.first_process():
                subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(pid)])
            self.outer.kill()
            self.outer.wait()
