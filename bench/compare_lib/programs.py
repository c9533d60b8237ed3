"""The programs that are compared: how each is had, and how it is started for a set-up."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from . import machine

KEY = "bench"
SINGLE, REVERSE, REVERSE_TLS = "single-end", "reverse, tls=0", "reverse, tls=1"


def build(given, bench):
    """Our binary, which may be `given`, and the load generator."""
    load = bench.parent / "target/bench/load"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", str(bench / "load/Cargo.toml")]
    subprocess.run(command, env={**os.environ, "CARGO_TARGET_DIR": str(load)}, check=True)
    ours = given
    if not given:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=bench.parent, check=True)
        ours = Path(os.environ.get("CARGO_TARGET_DIR", bench.parent / "target")) / "release/nodepass"
    return Path(ours).resolve(), load / "release/load"


def build_bare(bench):
    """The smallest that can be built: a server or client for a router, without a master."""
    target = bench.parent / "target/bench/bare"
    command = ["cargo", "build", "--profile", "small", "--no-default-features", "--locked"]
    subprocess.run(
        command, cwd=bench.parent, env={**os.environ, "CARGO_TARGET_DIR": str(target)}, check=True
    )
    return target / "small/nodepass"


class Missing(Exception):
    """A program is not on this machine and could not be had."""


class Tunnel:
    """A started set-up: where its users go, and its processes."""

    def __init__(self, directory, port, processes):
        self.directory, self.port, self.processes = directory, port, processes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.processes.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class Program:
    """One of the compared programs. A set-up that it does not have is not in `setups`."""

    name = ""
    setups = ()
    udp = ()

    def binary(self):
        found = shutil.which(self.name)
        if not found:
            raise Missing(self.name)
        return Path(found)

    def version(self):
        return ""

    def start(self, setup, target, udp=False):
        """Starts it before the target port `target`; it need not be ready when this returns."""
        directory = Path(tempfile.mkdtemp(prefix="compare-"))
        processes = machine.Processes(directory / "log")
        port = machine.free_port()
        try:
            self.launch(setup, processes, directory, port, target, udp)
        except BaseException:
            processes.stop()
            raise
        return Tunnel(directory, port, processes)

    def launch(self, setup, processes, directory, port, target, udp):
        raise NotImplementedError


def first_line(*command):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    return ((done.stdout + done.stderr).strip().splitlines() or [""])[0]


class Direct(Program):
    """Nothing in between: what the machine can do."""

    name = "direct"
    setups = (SINGLE, REVERSE, REVERSE_TLS)
    udp = (SINGLE, REVERSE)

    def binary(self):
        return None

    def start(self, setup, target, udp=False):
        directory = Path(tempfile.mkdtemp(prefix="compare-"))
        return Tunnel(directory, target, machine.Processes(directory / "log"))


class Nodepass(Program):
    setups = (SINGLE, REVERSE, REVERSE_TLS)
    udp = (SINGLE, REVERSE)

    def __init__(self, path, name="nodepass"):
        self.path, self.name = Path(path), name

    def binary(self):
        return self.path

    def version(self):
        return first_line(self.path, "--version")

    def launch(self, setup, processes, directory, port, target, udp):
        if setup == SINGLE:
            url = f"client://127.0.0.1:{port}/127.0.0.1:{target}?mode=1&log=warn"
            processes.start(self.path, url)
            return
        tls, tunnel = int(setup == REVERSE_TLS), machine.free_port()
        server = f"server://{KEY}@127.0.0.1:{tunnel}/127.0.0.1:{port}?mode=1&tls={tls}&log=warn"
        client = f"client://{KEY}@127.0.0.1:{tunnel}/127.0.0.1:{target}?mode=2&log=warn"
        processes.start(self.path, server)
        processes.start(self.path, client)


class Rathole(Program):
    name = "rathole"
    setups = (REVERSE, REVERSE_TLS)
    udp = (REVERSE,)

    def __init__(self, cache):
        self.cache = cache

    def binary(self):
        # Its lock file no longer compiles, and only TLS is compared.
        features = ["--no-default-features", "--features", "server,client,tls"]
        return cargo_install(self.cache, "rathole", "rathole", features)

    def version(self):
        return "rathole " + installed_version(self.cache, "rathole")

    def launch(self, setup, processes, directory, port, target, udp):
        tunnel, kind = machine.free_port(), "udp" if udp else "tcp"
        server_tls = client_tls = ""
        if setup == REVERSE_TLS:
            ca, identity = certificate(self.cache)
            server_tls = f'[server.transport]\ntype = "tls"\n[server.transport.tls]\n'
            server_tls += f'pkcs12 = "{identity}"\npkcs12_password = "bench"\n'
            client_tls = f'[client.transport]\ntype = "tls"\n[client.transport.tls]\n'
            client_tls += f'trusted_root = "{ca}"\nhostname = "localhost"\n'
        service = f'type = "{kind}"\nnodelay = true\n'
        server = f'[server]\nbind_addr = "127.0.0.1:{tunnel}"\ndefault_token = "{KEY}"\n{server_tls}'
        server += f'[server.services.x]\n{service}bind_addr = "127.0.0.1:{port}"\n'
        client = f'[client]\nremote_addr = "127.0.0.1:{tunnel}"\ndefault_token = "{KEY}"\n{client_tls}'
        client += f'[client.services.x]\n{service}local_addr = "127.0.0.1:{target}"\n'
        for role, text in (("--server", server), ("--client", client)):
            path = directory / f"{role}.toml"
            path.write_text(text)
            processes.start(self.binary(), role, path, RUST_LOG="error")


class Bore(Program):
    name = "bore"
    setups = (REVERSE,)

    def __init__(self, cache):
        self.cache = cache

    def binary(self):
        return cargo_install(self.cache, "bore-cli", "bore", ["--locked"])

    def version(self):
        return first_line(self.binary(), "--version")

    def launch(self, setup, processes, directory, port, target, udp):
        # Its control port cannot be chosen, so only one can run at a time.
        processes.start(self.binary(), "server", "--bind-addr", "127.0.0.1", RUST_LOG="error")
        machine.until(lambda: listens(7835), what="bore server")
        processes.start(
            self.binary(), "local", target, "--to", "127.0.0.1", "--port", port, RUST_LOG="error"
        )


class Socat(Program):
    name = "socat"
    setups = (SINGLE,)

    def version(self):
        lines = subprocess.run(["socat", "-V"], capture_output=True, text=True, check=False).stdout
        return " ".join(lines.splitlines()[1].split()[:3])

    def launch(self, setup, processes, directory, port, target, udp):
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=1024"
        processes.start(self.binary(), listen, f"TCP:127.0.0.1:{target},nodelay")


class Haproxy(Program):
    name = "haproxy"
    setups = (SINGLE,)

    def version(self):
        return first_line("haproxy", "-v").split(" - ")[0]

    def launch(self, setup, processes, directory, port, target, udp):
        config = directory / "haproxy.cfg"
        # It asks for descriptors for all of these at once, and for pipes.
        most = min(20000, (machine.allow_many_files() - 500) // 2)
        config.write_text(
            f"global\n  maxconn {most}\n  maxpipes 100\n"
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            "  option splice-auto\n"
            f"listen x\n  bind 127.0.0.1:{port}\n  server t 127.0.0.1:{target}\n"
        )
        processes.start(self.binary(), "-db", "-f", config)


class Nginx(Program):
    name = "nginx"
    setups = (SINGLE,)
    udp = (SINGLE,)

    def binary(self):
        found = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
        if not found:
            raise Missing("nginx")
        return Path(found)

    def version(self):
        return first_line(self.binary(), "-v").removeprefix("nginx version: ")

    def launch(self, setup, processes, directory, port, target, udp):
        kind = " udp" if udp else ""
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        load = f"load_module {module};\n" if module.exists() else ""
        config = directory / "nginx.conf"
        config.write_text(
            f"{load}daemon off;\nworker_processes auto;\nworker_rlimit_nofile 40000;\n"
            f"pid {directory}/pid;\nerror_log {directory}/error.log;\n"
            "events { worker_connections 20000; }\n"
            f"stream {{ server {{ listen 127.0.0.1:{port}{kind}; proxy_pass 127.0.0.1:{target};"
            " tcp_nodelay on; proxy_buffer_size 64k; } }\n"
        )
        processes.start(self.binary(), "-p", directory, "-e", directory / "error.log", "-c", config)


def listens(port):
    with open("/proc/net/tcp") as tcp, open("/proc/net/tcp6") as tcp6:
        lines = tcp.read().splitlines() + tcp6.read().splitlines()
    return any(f":{port:04X} " in line and line.split()[3] == "0A" for line in lines)


def cargo_install(cache, crate, binary, options):
    """From crates.io, once, into the cache."""
    path = cache / "peers/bin" / binary
    if not path.exists():
        print(f"building {crate} into {cache} …", flush=True)
        command = ["cargo", "install", "--root", str(cache / "peers"), crate, *options]
        environment = {**os.environ, "CARGO_TARGET_DIR": str(cache / "build")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Missing(f"{crate}: {done.stderr.strip().splitlines()[-1]}")
    return path


def installed_version(cache, crate):
    record = cache / "peers/.crates.toml"
    for line in record.read_text().splitlines() if record.exists() else ():
        if line.startswith(f'"{crate} '):
            return line.split()[1]
    return "unknown"


def certificate(cache):
    """A certificate authority and a server's identity, made once with openssl."""
    directory = cache / "tls"
    ca, identity = directory / "ca.pem", directory / "identity.p12"
    if not identity.exists():
        directory.mkdir(parents=True, exist_ok=True)

        def openssl(*args):
            subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)

        key, leaf = directory / "key.pem", directory / "leaf.pem"
        ca_key, request = directory / "ca-key.pem", directory / "leaf.csr"
        new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        openssl("req", "-x509", *new, "-keyout", ca_key, "-out", ca, "-days", 3650, "-subj", "/CN=bench")
        openssl("req", *new, "-keyout", key, "-out", request, "-subj", "/CN=localhost")
        names = directory / "names"
        names.write_text("subjectAltName=DNS:localhost\n")
        openssl(
            "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial",
            "-out", leaf, "-days", 3650, "-extfile", names,
        )
        openssl(
            "pkcs12", "-export", "-inkey", key, "-in", leaf, "-certfile", ca,
            "-passout", "pass:bench", "-out", identity,
        )
    return ca, identity
