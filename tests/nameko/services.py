"""Services as Nameko runs them, for tests/nameko.rs. What was called is appended to the file named by $CALLS."""
import os

import eventlet
from nameko.rpc import rpc


class OutOfStock(Exception):
    pass


class Pricing:
    name = "pricing"

    def note(self, method, *args):
        with open(os.environ["CALLS"], "a") as calls:
            print(method, *args, file=calls)

    @rpc
    def quote(self, *args, **kwargs):
        self.note("quote")
        with open(os.environ["CALLS"]) as calls:
            number = calls.read().count("quote")
        return {"number": number, "args": list(args), "kwargs": kwargs}

    @rpc
    def fragile(self, what):
        """Raises while there is a file `broken` beside the calls."""
        self.note("fragile", what)
        if os.path.exists(os.environ["CALLS"] + ".broken"):
            raise OutOfStock("planted-exception-11ce", what)
        return f"one {what}"

    @rpc
    def slow(self, what):
        """As long as there is a file `slow` beside the calls it takes two seconds."""
        self.note("slow", what)
        if os.path.exists(os.environ["CALLS"] + ".slow"):
            eventlet.sleep(2)
            return f"late {what}"
        return f"early {what}"

    @rpc
    def nothing(self):
        return None

    @rpc
    def large(self, text):
        return text + text

    @rpc
    def stack(self):
        return None
