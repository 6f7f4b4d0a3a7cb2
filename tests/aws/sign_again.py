"""Signs again what was received: one request of JSON a line in, the value of Authorization a line out."""
import json
import sys

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

for line in sys.stdin:
    told = json.loads(line)
    shown = told["headers"]["authorization"]
    names = shown.split("SignedHeaders=")[1].split(",")[0].split(";")
    headers = {name: told["headers"][name] for name in names if name != "host"}
    url = "http://" + told["headers"]["host"] + told["target"]
    request = AWSRequest(method=told["method"], url=url, headers=headers, data=told["body"])
    request.context["timestamp"] = told["headers"]["x-amz-date"]
    signer = SigV4Auth(Credentials(told["id"], told["secret"], told["session"]), told["service"], told["region"])
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signed = ";".join(sorted({*(name.lower() for name in headers), "host"}))
    print(f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed}, Signature={signer.signature(text, request)}")
