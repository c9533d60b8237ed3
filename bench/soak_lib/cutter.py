"""The network between two ends: a TCP relay that resets or silences what passes through it."""

import contextlib
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)


class Link:
    """One connection through the network."""

    def __init__(self, near, far):
        self.ends = (near, far)
        self.silent = self.broken = False
        self.left = 2

    def reset(self):
        self.broken = True
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                # A close would leave the threads in `recv`.
                end.shutdown(socket.SHUT_RD)


class Cutter:
    """Listens at `port` and relays to the same machine's `upstream`."""

    def __init__(self, port, upstream):
        self.upstream = upstream
        self.lock = threading.Lock()
        self.links = set()
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self):
        """Every connection ends in a reset."""
        with self.lock:
            for link in self.links:
                link.reset()

    def silence(self):
        """What is open stays open, but nothing arrives any more. The connections concerned."""
        with self.lock:
            for link in self.links:
                link.silent = True
            return set(self.links)

    def still(self, links):
        """How many of them some end holds."""
        with self.lock:
            return len(self.links & links)

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                near.close()
                continue
            link = Link(near, far)
            with self.lock:
                self.links.add(link)
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pump, args=(link, source, sink), daemon=True).start()

    def _pump(self, link, source, sink):
        clean = False
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if not link.silent:
                    sink.sendall(data)
            clean = True
            if not link.silent and not link.broken:
                sink.shutdown(socket.SHUT_WR)
        if not clean and not link.silent:
            link.reset()
        with self.lock:
            link.left -= 1
            # A silenced end knows nothing of the other.
            over = (source,) if link.silent else link.ends if link.left == 0 else ()
            if link.left == 0:
                self.links.discard(link)
        for end in over:
            end.close()
