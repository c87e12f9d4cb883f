"""A proxy that checks each request and each answer by GitHub's OpenAPI description, and the claim in the
request with PyJWT. What is wrong goes no further.

usage: contract proxy.py DESCRIPTION UPSTREAM KEY ISSUER

Prints the port, then for each request a line of JSON: method, path, status and what is wrong.
"""

import http.client
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_core.templating.responses.exceptions import ResponseNotFound
from openapi_schema_validator import OAS30Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT4
from werkzeug.datastructures import Headers, ImmutableMultiDict

description_file, upstream, key_file, issuer = sys.argv[1:]
description = json.loads(Path(description_file).read_text())
openapi = OpenAPI.from_dict({**description, "servers": [{"url": upstream}]})
public_key = load_pem_private_key(Path(key_file).read_bytes(), None).public_key()
resource = Resource.from_contents(description, default_specification=DRAFT4)
refusals = OAS30Validator(
    {"$ref": "urn:github#/components/schemas/basic-error"},
    registry=Registry().with_resource("urn:github", resource),
)
# GitHub: a claim may not expire later than this, in seconds.
MOST_AHEAD = 600
printing = threading.Lock()


def say(line):
    with printing:
        print(line, flush=True)


class Request:
    """As openapi-core wants it."""

    def __init__(self, method, path, headers, body):
        self.host_url, self.path, self.method = upstream, path, method.lower()
        self.full_url_pattern = upstream + path
        self.content_type = headers.get("content-type", "application/json").partition(";")[0]
        self.body = body or None
        self.parameters = RequestParameters(
            query=ImmutableMultiDict(), header=Headers(headers.items()), cookie=ImmutableMultiDict()
        )


class Response:
    """As openapi-core wants it."""

    def __init__(self, status, headers, body):
        self.status_code, self.data, self.headers = status, body, Headers(headers)
        self.content_type = self.headers.get("content-type", "").partition(";")[0]


def flaws_of_claim(authorization):
    kind, _, claim = (authorization or "").partition(" ")
    if kind.lower() != "bearer":
        return [f"the claim comes as {kind or 'nothing'}"]
    try:
        required = {"require": ["iat", "exp", "iss"]}
        claims = jwt.decode(claim, public_key, ["RS256"], required, issuer=issuer)
    except jwt.PyJWTError as error:
        return [f"the claim: {type(error).__name__}: {error}"]
    ahead = claims["exp"] - time.time()
    return [f"the claim expires in {ahead:.0f} s"] if ahead > MOST_AHEAD else []


def flaws_of_request(request, authorization):
    is_revocation = request.path == "/installation/token"  # with the token itself
    flaws = [] if is_revocation else flaws_of_claim(authorization)
    try:
        openapi.validate_request(request)
    except OpenAPIError as error:
        flaws.append(words(error))
    return flaws


def flaws_of_response(request, response):
    try:
        openapi.validate_response(request, response)
    except ResponseNotFound:
        # The description has no refusals for some paths; a refusal looks the same for all.
        if response.status_code < 400:
            return [f"the status {response.status_code} is not described"]
        return [error.message for error in refusals.iter_errors(json.loads(response.data))]
    except OpenAPIError as error:
        return [words(error)]
    return []


def words(error):
    why = getattr(error.__cause__, "schema_errors", None) or [error.__cause__ or error]
    return f"{type(error).__name__}: " + "; ".join(str(getattr(one, "message", one)) for one in why)


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = Request(self.command, self.path, self.headers, body)
        problems = flaws_of_request(request, self.headers.get("authorization"))
        status, headers, content = 400, [("content-type", "application/json")], b"{}"
        if not problems:
            status, headers, content = self.forward(body)
            problems = flaws_of_response(request, Response(status, headers, content))
            status = 502 if problems else status
        told = {"method": self.command, "path": self.path, "status": status, "problems": problems}
        say(json.dumps(told))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = answer

    def forward(self, body):
        connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=20)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
say(server.server_address[1])
server.serve_forever()
