"""The master's API, as a client uses it."""

import http.client
import json

from .journal import Wrong

PATIENCE = 20.0


class Api:
    def __init__(self, port, key):
        self.port, self.key = port, key

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def expect(self, status, method, path, body=None, connection=None, key=None):
        """The answer's JSON, or its text. A connection of its own, unless one is given."""
        headers = {"X-API-Key": key or self.key}
        text = None if body is None else json.dumps(body)
        asked = connection or self.connect()
        try:
            asked.request(method, f"/api/v1{path}", text, headers)
            answer = asked.getresponse()
            content = answer.read()
        finally:
            if not connection:
                asked.close()
        if answer.status != status:
            raise Wrong(f"{method} {path}: {answer.status} instead of {status}: {content[:200]!r}")
        if answer.headers.get_content_type() == "application/json":
            return json.loads(content)
        return content.decode()

    def instances(self):
        """All but the key instance."""
        return [found for found in self.expect(200, "GET", "/instances") if found["type"]]

    def create(self, url, alias):
        return self.expect(201, "POST", "/instances", {"url": url, "alias": alias})["id"]

    def gauge(self, name):
        """A value of the master itself in `/metrics`."""
        for line in self.expect(200, "GET", "/metrics").splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
        raise Wrong(f"no {name} in the metrics")
