"""Cuts GitHub's OpenAPI description to the paths that the GitHub source uses and what they refer to.

usage: python3 cut.py <api.github.com.json >github.json
"""

import json
import sys

PATHS = (
    "/app/installations/{installation_id}/access_tokens",
    "/installation/token",
    "/orgs/{org}/installation",
    "/repos/{owner}/{repo}/installation",
    "/users/{username}/installation",
)


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


whole = json.load(sys.stdin)
paths = {path: whole["paths"][path] for path in PATHS}
components = {}
# What a refusal looks like is wanted also where a path does not describe it.
wanted = ["#/components/schemas/basic-error", *references(paths)]
while wanted:
    _, _, kind, name = wanted.pop().split("/")
    parts = components.setdefault(kind, {})
    if name not in parts:
        parts[name] = whole["components"][kind][name]
        wanted.extend(references(parts[name]))
json.dump(
    {"openapi": whole["openapi"], "info": whole["info"], "paths": paths, "components": components},
    sys.stdout,
)
