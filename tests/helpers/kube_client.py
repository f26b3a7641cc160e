"""A plain JSON client of a Kubernetes API, for tests that state what the API does."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from drkit import clock

Object = dict[str, Any]
JSON, MERGE = "application/json", "application/merge-patch+json"
STRATEGIC, JSON_PATCH = "application/strategic-merge-patch+json", "application/json-patch+json"


class Refused(Exception):
    """The API's Status of a refused request."""

    def __init__(self, status: Object, headers: Any) -> None:
        super().__init__(status.get("message"))
        self.code, self.reason, self.status, self.headers = status["code"], status["reason"], status, headers


class Client:
    def __init__(self, kubeconfig: Path, *, token: str | None = None) -> None:
        config = json.loads(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.url = cluster["server"]
        self._token = token if token is not None else config["users"][0]["user"]["token"]
        context = ssl.create_default_context(cadata=authority)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def open(
        self, verb: str, path: str, body: Any = None, kind: str = JSON, *, timeout_s: float = 30, **query: str
    ) -> Any:
        ask = urllib.request.Request(  # noqa: S310  (the lab's own https URL)
            f"{self.url}{path}" + (f"?{urlencode(query)}" if query else ""),
            data=None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
            method=verb, headers={"Content-Type": kind, "Authorization": f"Bearer {self._token}"},
        )  # fmt: skip
        try:
            return self._opener.open(ask, timeout=timeout_s)
        except urllib.error.HTTPError as e:
            with e:
                raise Refused(json.load(e), e.headers) from None

    def ask(self, verb: str, path: str, body: Any = None, kind: str = JSON, **query: str) -> Object:
        with self.open(verb, path, body, kind, **query) as answer:
            found: Object = json.load(answer)
            return found

    def get(self, path: str, **query: str) -> Object:
        return self.ask("GET", path, **query)

    def items(self, path: str, **query: str) -> list[Object]:
        found: list[Object] = self.get(path, **query)["items"]
        return found

    def names(self, path: str, **query: str) -> list[str]:
        return [o["metadata"]["name"] for o in self.items(path, **query)]

    @contextmanager
    def watch(self, path: str, **query: str) -> Iterator[Iterator[tuple[str, Object]]]:
        """Give the events of a watch, as they come."""
        with self.open("GET", path, watch="true", **query) as answer:

            def events() -> Iterator[tuple[str, Object]]:
                for line in answer:
                    event = json.loads(line)
                    yield event["type"], event["object"]

            yield events()


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    clock.wait_until(holds, what, timeout_s=timeout_s, every_s=0.05)


# --- documents --------------------------------------------------------------------------------------------------------


def pod(name: str, *, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    spec = {"containers": [{"name": "main", "image": "lab"}], **spec}
    return {"metadata": {"name": name, "labels": labels or {"app": name}}, "spec": spec}


def deployment(name: str, replicas: int, **spec: Any) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "lab"}], **spec}}
    return {
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def budget(name: str, app: str, **limit: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"app": app}}, **limit}}


def spread(app: str, *, hard: bool, **more: str) -> list[Object]:
    """Return a constraint that spreads an app over the zones."""
    return [
        {
            "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule" if hard else "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app": app}}, **more,
        }
    ]  # fmt: skip
