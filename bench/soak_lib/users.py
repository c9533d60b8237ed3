"""Users of the tunnels. Everything they send is echoed, and every byte is compared."""

import contextlib
import os
import random
import socket
import threading
import time

from .journal import Wrong

#: How long an answer may take. Everything happens on one busy machine.
PATIENCE = 20.0
#: Connections that each tunnel carries all the time.
LONG = 10
#: What is sent is cut out of this.
NOISE = os.urandom(1 << 20)
#: Attempts with a datagram, and how long each waits: the system may drop one.
TRIES, WAIT = 5, 1.0


def _noise(length):
    begin = random.randrange(len(NOISE) - length + 1)
    return NOISE[begin : begin + length]


def _open(tunnel):
    user = socket.create_connection(("127.0.0.1", tunnel.port), timeout=PATIENCE)
    user.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return user


def _read(user, expected):
    """Reads the echo of `expected`."""
    have = 0
    while have < len(expected):
        part = user.recv(min(1 << 18, len(expected) - have))
        if not part:
            raise EOFError(f"ended after {have} of {len(expected)} bytes")
        if part != expected[have : have + len(part)]:
            raise Wrong(f"other bytes than sent, after {have} of {len(expected)}")
        have += len(part)


def connection(tunnel, length=None):
    """One connection: a request, its echo, and sometimes the end of the stream both ways."""
    sent = _noise(length or random.choice((1, 64, 1000, 9000, 60000)))
    with _open(tunnel) as user:
        user.sendall(sent)
        half_close = tunnel.half_close and random.random() < 0.5
        if half_close:
            user.shutdown(socket.SHUT_WR)
        _read(user, sent)
        if half_close and user.recv(1):
            raise Wrong("more bytes than sent")


def datagram(tunnel, source=None):
    """One datagram and its echo."""
    if source is None:
        with source_of(tunnel) as source:
            return datagram(tunnel, source)
    sent = os.urandom(8) + _noise(random.choice((0, 56, 500, 1200, tunnel.largest)))
    for _ in range(TRIES):
        source.send(sent)
        end = time.monotonic() + WAIT
        while (left := end - time.monotonic()) > 0:
            source.settimeout(left)
            try:
                got = source.recv(65535)
            except TimeoutError:
                break
            # Without frames, attempts that waited together come as one.
            if got == sent or (not tunnel.frames and got == sent * (len(got) // len(sent))):
                return None
            if got[:8] == sent[:8]:
                raise Wrong(f"a datagram of {len(sent)} bytes came back as {len(got)} others")
            # The late echo of an earlier attempt.
    raise TimeoutError(f"no echo of {TRIES} datagrams of {len(sent)} bytes")


def source_of(tunnel):
    source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    source.connect(("127.0.0.1", tunnel.port))
    return source


def short(soak):
    """Connections that carry one request."""
    while not soak.stop.wait(random.expovariate(25)):
        tunnel = random.choice(soak.tunnels)
        soak.journal.attempt("short", tunnel, lambda: connection(tunnel))


def long(soak, tunnel):
    """Connections that stay, with a little data now and then."""
    users, turn = [], 0
    while not soak.stop.wait(0.15):
        if len(users) < LONG:
            user = LongUser(tunnel)
            if soak.journal.attempt("long", tunnel, user.begin):
                users.append(user)
            else:
                soak.stop.wait(0.5)
            continue
        turn = (turn + 1) % LONG
        user = users[turn]
        if not soak.journal.attempt("long", tunnel, user.trickle, user.worked) or user.is_over():
            users.remove(user)
            user.end()
    for user in users:
        user.end()


class LongUser:
    def __init__(self, tunnel):
        self.tunnel, self.socket = tunnel, None
        self.worked = time.monotonic()
        self.until = self.worked + random.uniform(5, 150)

    def begin(self):
        self.socket = _open(self.tunnel)
        self.trickle()

    def trickle(self):
        sent = _noise(random.randrange(1, 300))
        self.socket.sendall(sent)
        _read(self.socket, sent)
        self.worked = time.monotonic()

    def is_over(self):
        return time.monotonic() > self.until

    def end(self):
        self.socket.close()


def bulk(soak):
    """Many megabytes there and back at once."""
    while not soak.stop.wait(random.uniform(0.5, 1.5)):
        tunnel, megabytes = random.choice(soak.tunnels), random.choice((1, 4, 16, 32))
        soak.journal.attempt("bulk", tunnel, lambda: _transfer(tunnel, megabytes))


def _transfer(tunnel, megabytes):
    with _open(tunnel) as user:

        def send():
            try:
                for _ in range(megabytes):
                    user.sendall(NOISE)
            except OSError:
                pass  # The reader sees it too.

        sender = threading.Thread(target=send)
        sender.start()
        try:
            for _ in range(megabytes):
                _read(user, NOISE)
        except BaseException:
            # Lets a sender go that nobody reads from any more.
            with contextlib.suppress(OSError):
                user.shutdown(socket.SHUT_RDWR)
            raise
        finally:
            sender.join(PATIENCE)


def udp(soak):
    """New sources all the time, and some that come again."""
    known = []
    while not soak.stop.wait(random.expovariate(15)):
        if known and random.random() < 0.3:
            tunnel, source, worked = known.pop(random.randrange(len(known)))
        else:
            tunnel = random.choice(soak.tunnels)
            source, worked = source_of(tunnel), time.monotonic()
        if soak.journal.attempt("udp", tunnel, lambda: datagram(tunnel, source), worked):
            known.append((tunnel, source, time.monotonic()))
            if len(known) > 20:
                known.pop(0)[1].close()
        else:
            source.close()
    for _, source, _ in known:
        source.close()
