"""A TCP proxy in a thread that can be told how fast it passes on what the server sends."""

import contextlib
import socket
import threading
import time

PIECE = 16 << 10


class SlowLine:
    """`bytes_per_second`: 0 stops the line, `None` lets it run. Applies to connections that exist as well."""

    def __init__(self, target: int):
        self.target, self.bytes_per_second, self.passed = target, None, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, back: bool):
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE):
                if back and self.bytes_per_second:
                    time.sleep(len(data) / self.bytes_per_second)
                while back and self.bytes_per_second == 0:
                    time.sleep(0.01)
                sink.sendall(data)
                if back:
                    self.passed += len(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self):
        self.listener.close()
