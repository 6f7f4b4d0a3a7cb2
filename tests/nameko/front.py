"""A service that asks `pricing` in several ways, driven line by line: its own entrypoint is fired in the process, so that it
answers without a broker, too. The proxy is the one of docs/nameko.md, from the file named by $PROXY."""
import eventlet
import eventlet.tpool

eventlet.monkey_patch()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

from nameko.containers import ServiceContainer  # noqa: E402
from nameko.rpc import RpcProxy, rpc  # noqa: E402
from nameko.testing.services import entrypoint_hook  # noqa: E402
from nameko_cachetools import CachedRpcProxy, CacheFirstRpcProxy  # noqa: E402

PROXY = {}
exec(open(os.environ["PROXY"]).read(), PROXY)
KeyhatchProxy = PROXY["KeyhatchProxy"]
SOCKET = os.environ["SOCKET"]


class Front:
    name = "front"
    plain = RpcProxy("pricing")
    cached = CachedRpcProxy("pricing", failover_timeout=0.5)
    first = CacheFirstRpcProxy("pricing")
    hatch = KeyhatchProxy("/rpc/cached", SOCKET)
    hatch_first = KeyhatchProxy("/rpc/first", SOCKET)

    @rpc
    def ask(self, by, method, args, kwargs):
        return getattr(getattr(self, by), method)(*args, **kwargs)


container = ServiceContainer(Front, {"AMQP_URI": os.environ["AMQP_URI"]})
container.start()
print("ready", flush=True)
while True:
    line = eventlet.tpool.execute(sys.stdin.readline)
    if not line:
        os._exit(0)
    asked = json.loads(line)
    began = time.monotonic()
    try:
        with eventlet.Timeout(8):
            with entrypoint_hook(container, "ask") as ask:
                told = {"value": ask(asked["by"], asked["method"], asked.get("args", []), asked.get("kwargs", {}))}
    except BaseException as error:
        told = {"raised": type(error).__name__, "type": getattr(error, "exc_type", None), "text": str(error)}
    told["seconds"] = time.monotonic() - began
    print(json.dumps(told), flush=True)
