"""What may stand between a client and a host: a relay whose websockets can be cut, as networks and proxies do."""

import socket
import threading
from contextlib import suppress


class Relay:
    """Passes connections on to a server's port; `url` is its own. A context that ends it."""

    def __init__(self, url):
        self.target = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        self.asked, self.websockets, self.lock = [], [], threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self, *, late=0.0):
        """Every websocket of the client; the server learns of it so many seconds later. How many there were."""
        with self.lock:
            cut, self.websockets = self.websockets, []
        for client, server in cut:
            _shut(client)
            threading.Timer(late, _shut, [server]).start()
        return len(cut)

    def _serve(self):
        while True:
            try:
                client, _ = self.door.accept()
            except OSError:
                return
            server = socket.create_connection(self.target)
            first = client.recv(65536)
            self.asked.append(first.split(b" ", 2)[1].decode())
            if self.asked[-1].startswith("/ws"):
                with self.lock:
                    self.websockets.append((client, server))
            server.sendall(first)
            ends_server = not self.asked[-1].startswith("/ws")
            threading.Thread(target=_pass_on, args=(client, server, ends_server), daemon=True).start()
            threading.Thread(target=_pass_on, args=(server, client, True), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.door.close()
        self.cut()


def _shut(end):
    with suppress(OSError):  # it is closed already
        end.shutdown(socket.SHUT_RDWR)


def _pass_on(source, to, ends):
    """`ends`: the end of one side is passed on to the other."""
    with suppress(OSError):
        while data := source.recv(65536):
            to.sendall(data)
        if ends:
            to.shutdown(socket.SHUT_WR)
