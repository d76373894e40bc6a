"""Servers that a module's tests share."""

import contextlib

from harness.server import Server

# Limits small enough to run into.
MAX_INPUT, MAX_TOTAL, PAYLOAD = 48, 64, 20_000
LIMITS = ["--max-input-tokens", MAX_INPUT, "--max-total-tokens", MAX_TOTAL, "--payload-limit", PAYLOAD]


@contextlib.contextmanager
def serving(tmp_path_factory, *args, env=None, command=(), hostname="127.0.0.1"):
    server = Server(tmp_path_factory.mktemp("server") / "log", *map(str, args), env=env, command=command)
    server.args[server.args.index("--hostname") + 1] = hostname
    try:
        server.start()
        yield server
        server.stop()
    finally:
        server.kill()
