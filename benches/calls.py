"""A cached call of a Nameko service: by keyhatch, by nameko-cachetools in the process, and plain, in one run.

    cargo build --release && target/tools/nameko/bin/python benches/calls.py

As root, with RabbitMQ and the environment that tests/run makes. Everything is started here, on ports of its own, and ended. The
client is one process; what is measured is what a service method waits for, call after call and from sixteen greenthreads at once.
"""
import eventlet

eventlet.monkey_patch()

import os  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

from nameko.containers import ServiceContainer  # noqa: E402
from nameko.rpc import RpcProxy, rpc  # noqa: E402
from nameko.testing.services import entrypoint_hook  # noqa: E402
from nameko_cachetools import CachedRpcProxy, CacheFirstRpcProxy  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DOCUMENT = open(os.path.join(ROOT, "docs/nameko.md")).read()
PROXY = {}
exec(next(block for block in DOCUMENT.split("```python\n") if "class KeyhatchProxy" in block).split("```")[0], PROXY)
DIRECTORY = tempfile.mkdtemp(prefix="keyhatch-bench-")
SOCKET = os.path.join(DIRECTORY, "keyhatch.sock")
CALLS = os.path.join(DIRECTORY, "calls")
# The longest that a call may take, and a row.
PATIENCE, ROW = 5, 6
STARTED = []


class Front:
    name = "front"
    plain = RpcProxy("pricing")
    cached = CachedRpcProxy("pricing", failover_timeout=0.5)
    first = CacheFirstRpcProxy("pricing")
    hatch = PROXY["KeyhatchProxy"]("/rpc/cached", SOCKET)
    hatch_first = PROXY["KeyhatchProxy"]("/rpc/first", SOCKET)

    @rpc
    def measure(self, by, calls, greenthreads):
        """Seconds of each call, or None for one without an answer; and of all together."""
        proxy, took = getattr(self, by), []
        end = time.monotonic() + ROW

        def some():
            while len(took) < calls and time.monotonic() < end:
                began = time.perf_counter()
                try:
                    with eventlet.Timeout(PATIENCE):
                        proxy.slow("pear")
                    took.append(time.perf_counter() - began)
                except BaseException:
                    took.append(None)

        began = time.perf_counter()
        for thread in [eventlet.spawn(some) for _ in range(greenthreads)]:
            thread.wait()
        return took, time.perf_counter() - began


def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command, **more):
    log = open(os.path.join(DIRECTORY, "log"), "a")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **more)
    STARTED.append(process)
    return process


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(holds):
    give_up = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < give_up, open(os.path.join(DIRECTORY, "log")).read()
        time.sleep(0.1)


def write(name, text, mode=0o644):
    path = os.path.join(DIRECTORY, name)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
    return path


def rabbit(at):
    names = str(port())
    environment = {
        "PATH": os.environ["PATH"], "HOME": DIRECTORY, "ERL_EPMD_PORT": names, "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench-{at}@localhost", "RABBITMQ_DIST_PORT": str(port()),
        "RABBITMQ_CONF_ENV_FILE": os.path.join(DIRECTORY, "none"),
        "RABBITMQ_MNESIA_BASE": os.path.join(DIRECTORY, "data"), "RABBITMQ_LOG_BASE": os.path.join(DIRECTORY, "logs"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": write("plugins", "[]."),
        "RABBITMQ_CONFIG_FILE": write(
            "rabbitmq.conf", f"listeners.tcp.default = 127.0.0.1:{at}\ndefault_user = keyhatch\ndefault_pass = bench\n"
        ),
    }
    start(["epmd", "-address", "127.0.0.1", "-port", names])
    return start(["/usr/lib/rabbitmq/bin/rabbitmq-server"], env=environment)


def listens(at):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", at)) == 0


def keyhatch(at):
    source = (
        f'source = {{ type = "nameko", broker = "amqp://127.0.0.1:{at}", user = "keyhatch", token = "t", '
        'service = "pricing", method = "slow", allow-plaintext = true }\n'
    )
    config = write("keyhatch.toml", f"""
[server]
socket = "{SOCKET}"
admin-socket = "{DIRECTORY}/admin.sock"
parent-user = 61001
worker-user = 61002
[cache]
directory = "{DIRECTORY}/cache"
seal-key = {{ file = "{DIRECTORY}/seal.key" }}
[limits]
fetches-per-user = 1000000
[tokens]
t = {{ file = "{write("token", "bench", 0o400)}" }}
[keys."/rpc/cached/slow"]
{source}failover-timeout = "500ms"
[keys."/rpc/first/slow"]
{source}max-age = "forever"
[clients.front]
user = 0
keys = ["/rpc/**"]
""", 0o600)
    start([os.environ.get("KEYHATCH_BIN", os.path.join(ROOT, "target/release/keyhatch")), "serve", "--config", config])
    until(lambda: os.path.exists(SOCKET))


def main():
    os.chmod(DIRECTORY, 0o755)
    at = port()
    broker = rabbit(at)
    until(lambda: listens(at) and "completed with" in open(os.path.join(DIRECTORY, "log")).read())
    keyhatch(at)
    uri = f"amqp://keyhatch:bench@127.0.0.1:{at}//"
    configuration = write("nameko.yaml", f"AMQP_URI: {uri}\n")
    run = [os.path.join(os.path.dirname(sys.executable), "nameko"), "run", "--config", configuration, "services"]
    services = start(run, cwd=os.path.join(ROOT, "tests/nameko"), env={**os.environ, "CALLS": CALLS})
    until(lambda: "Connected to" in open(os.path.join(DIRECTORY, "log")).read())
    container = ServiceContainer(Front, {"AMQP_URI": uri})
    container.start()

    def served():
        with open(CALLS) as calls:
            return sum(1 for _ in calls)

    def row(state, by, calls, greenthreads):
        before = served() if state else 0
        with entrypoint_hook(container, "measure", timeout=60) as measure:
            took, whole = measure(by, calls, greenthreads)
        good = sorted(one * 1000 for one in took if one is not None)
        if not good:
            return f"{state:14} {by:12} {greenthreads:3}  no answer to {len(took)} calls"
        of = lambda part: good[min(len(good) - 1, int(len(good) * part))]  # noqa: E731
        return (f"{state:14} {by:12} {greenthreads:3}  p50 {of(0.5):9.2f} ms  p99 {of(0.99):9.2f} ms  "
                f"{len(good) / whole:9.1f} calls/s  {len(took) - len(good)} without an answer, of {len(took)}; {served() - before} at the service")

    def rows(state):
        for greenthreads in (1, 16):
            for by in ("plain", "cached", "hatch", "first", "hatch_first"):
                print(row(state, by, 2000, greenthreads), flush=True)

    for by in ("cached", "hatch", "first", "hatch_first"):
        row("", by, 1, 1)
    rows("up")
    open(CALLS + ".slow", "w").close()
    rows("slow")
    os.remove(CALLS + ".slow")
    end(services)
    rows("service dead")
    end(broker)
    rows("broker dead")


if __name__ == "__main__":
    try:
        main()
    finally:
        for one in STARTED:
            end(one)
        sys.stdout.flush()
        os._exit(0)
