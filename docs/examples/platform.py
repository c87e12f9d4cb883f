#!/usr/bin/env python3
"""The smallest platform: answers the one request that molecule-tokenfs makes.

usage: platform.py PORT CONFIGS_DIR [ADDRESS]

It listens on ADDRESS; by default on 127.0.0.1, which containers do not reach (0.0.0.0 is every
address of this machine). It writes a bearer to CONFIGS_DIR/.auth_token, and gives a made-up token of ten minutes to whoever
presents that bearer. A real platform mints the token instead, for example with GitHub's
POST /app/installations/{id}/access_tokens.
"""

import http.server
import json
import os
import secrets
import sys
import time

PORT, CONFIGS_DIR = int(sys.argv[1]), sys.argv[2]
ADDRESS = sys.argv[3] if len(sys.argv) > 3 else "127.0.0.1"
BEARER = secrets.token_urlsafe(32)
LIFE_SECONDS = 600


def mint():
    expiry = time.gmtime(time.time() + LIFE_SECONDS)
    return {
        "token": "ghs_" + secrets.token_hex(18),
        "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", expiry),
    }


class Platform(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != "Bearer " + BEARER:
            status, answer = 401, {"error": "unknown bearer"}
        elif not self.path.endswith("/github-installation-token"):
            status, answer = 404, {"error": "no such endpoint"}
        else:
            status, answer = 200, mint()
        body = json.dumps(answer).encode()
        self.send_response(status)  # also sends Date, from which the token's life is counted
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


path = os.path.join(CONFIGS_DIR, ".auth_token")
with open(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
    file.write(BEARER)
os.rename(path + ".new", path)
http.server.ThreadingHTTPServer((ADDRESS, PORT), Platform).serve_forever()
