"""Debian's PostgreSQL on a socket in a folder of the test's own."""

import os
import shutil
import subprocess
from pathlib import Path

from harness.server import wait_for

NOBODY = 65534


class Postgres:
    def __init__(self, folder: Path):
        self.folder = folder
        self.process: subprocess.Popen | None = None
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        assert programs, "PostgreSQL is missing; `make setup` installs it"
        self.programs = programs[-1]

    def _command(self, name: str, *args: str) -> list[str]:
        # The server refuses to be root.
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        return [*user, str(self.programs / name), *args]

    def __enter__(self) -> "Postgres":
        self.folder.mkdir(parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, NOBODY, NOBODY)
            for parent in self.folder.parents:
                if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o001 == 0:
                    parent.chmod(parent.stat().st_mode | 0o011)
        data = str(self.folder / "data")
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D", data]
        subprocess.run(self._command("initdb", *options), check=True, capture_output=True, cwd=self.folder)
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-k", str(self.folder)]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                self._command("postgres", "-D", data, *settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        wait_for(lambda: self._sql("SELECT 1").returncode == 0, 60, "PostgreSQL answers", interval=0.1)
        return self

    def _sql(self, text: str, database: str = "postgres") -> subprocess.CompletedProcess:
        command = [str(self.programs / "psql"), "-h", str(self.folder), "-U", "postgres", "-d", database]
        # Rows alone, a line each.
        return subprocess.run([*command, "-qAt", "-c", text], capture_output=True)

    def run(self, database: str, text: str) -> list[str]:
        """Does what a statement says in one of the databases; its rows."""
        done = self._sql(text, database)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().splitlines()

    def url(self, name: str) -> str:
        """The address of a database, which is made where it is missing."""
        self._sql(f"CREATE DATABASE {name}")
        return f"postgres://postgres@{str(self.folder).replace('/', '%2F')}/{name}"

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
