"""A server of moto with a few secrets and parameters: prints its port, and serves until its input ends."""

import sys

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
_, port = server.get_host_and_port()


def client(service):
    return boto3.client(
        service,
        region_name="eu-west-1",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
        aws_secret_access_key="x",
    )


secrets, parameters = client("secretsmanager"), client("ssm")
secrets.create_secret(Name="prod/plain", SecretString="good-value")
secrets.put_secret_value(SecretId="prod/plain", SecretString="newer-value")
secrets.create_secret(Name="prod/object", SecretString='{"user": "app", "password": "good-value"}')
secrets.create_secret(Name="prod/binary", SecretBinary=b"\xff\xfe")
secrets.create_secret(Name="prod/deleted", SecretString="x")
secrets.delete_secret(SecretId="prod/deleted")
parameters.put_parameter(Name="/prod/url", Value="good-value", Type="SecureString")
parameters.put_parameter(Name="/prod/url", Value="newer-value", Type="SecureString", Overwrite=True)
parameters.put_parameter(Name="/prod/object", Value='{"user": "app", "port": 5432}', Type="String")
print(port, flush=True)
sys.stdin.read()
server.stop()
