# A real cachish, but for two things: it listens on a port of its own, which it prints, and Heroku is where it is told.
import sys

import requests
from werkzeug.serving import make_server

config, upstream = sys.argv[1:]
send = requests.Session.send


def send_there(self, request, **options):
    request.url = request.url.replace("https://api.heroku.com", upstream)
    return send(self, request, **options)


requests.Session.send = send_there

import cachish  # noqa: E402

server = make_server("127.0.0.1", 0, cachish.create_app_from_file(config))
print(server.port, flush=True)
server.serve_forever()
