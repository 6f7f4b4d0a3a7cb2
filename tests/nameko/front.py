"""A service that asks `pricing` in several ways, driven line by line: its own entrypoint is fired in the process, so that it
answers without a broker, too. The proxy is the one of docs/nameko.md, which $PAGE
names, and so are two services more."""
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

SOCKET = os.environ["SOCKET"]
PAGE = open(os.environ["PAGE"]).read()
# The service of the page before and after, and the class: as they stand there, but for where the socket is.
before, after, proxy = [block.split("```")[0] for block in PAGE.split("```python\n")[1:]]
BEFORE, AFTER = {}, {}
exec(before, BEFORE)
exec(proxy, AFTER)
exec(after.replace('"/rpc/pricing"', '"/rpc/pricing", ' + repr(SOCKET)), {**BEFORE, **AFTER}, AFTER)
KeyhatchProxy = AFTER["KeyhatchProxy"]


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


config = {"AMQP_URI": os.environ["AMQP_URI"]}
container = ServiceContainer(Front, config)
shops = {"before": ServiceContainer(BEFORE["Shop"], config), "after": ServiceContainer(AFTER["Shop"], config)}
for one in [container, *shops.values()]:
    one.start()
print("ready", flush=True)
while True:
    line = eventlet.tpool.execute(sys.stdin.readline)
    if not line:
        os._exit(0)
    asked = json.loads(line)
    began = time.monotonic()
    try:
        with eventlet.Timeout(8):
            if asked["by"] in shops:
                with entrypoint_hook(shops[asked["by"]], asked["method"]) as method:
                    told = {"value": method(*asked["args"])}
            else:
                with entrypoint_hook(container, "ask") as ask:
                    told = {"value": ask(asked["by"], asked["method"], asked["args"], asked["kwargs"])}
    except BaseException as error:
        told = {"raised": type(error).__name__, "type": getattr(error, "exc_type", None), "text": str(error)}
    told["seconds"] = time.monotonic() - began
    print(json.dumps(told), flush=True)
