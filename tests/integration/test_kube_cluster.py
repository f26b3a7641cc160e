"""The lab's Kubernetes cluster: each behaviour that drkit and kubectl rely on, asked through its API."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kube_client import (
    JSON_PATCH,
    MERGE,
    STRATEGIC,
    Client,
    Refused,
    budget,
    deployment,
    eventually,
    pod,
    spread,
)

from drkit.lab.kube.cluster import Cluster, Delayed, three_zones

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

SPEED = 20.0
NODES, APPS = "/api/v1/nodes", "/apis/apps/v1/namespaces"


class Ground:
    """One cluster, and a namespace of one test's own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.client = cluster, Client(cluster.kubeconfig)
        self.namespace = "default"

    def path(self, plural: str, name: str = "", sub: str = "") -> str:
        group = {
            "deployments": "apps/v1", "replicasets": "apps/v1", "daemonsets": "apps/v1",
            "poddisruptionbudgets": "policy/v1", "endpointslices": "discovery.k8s.io/v1",
            "horizontalpodautoscalers": "autoscaling/v2",
        }.get(plural)  # fmt: skip
        root = f"/apis/{group}" if group else "/api/v1"
        return "/".join(part for part in (root, "namespaces", self.namespace, plural, name, sub) if part)

    def make(self, plural: str, document: dict[str, Any]) -> dict[str, Any]:
        return self.client.ask("POST", self.path(plural), document)

    def pods(self, app: str) -> list[dict[str, Any]]:
        return self.client.items(self.path("pods"), labelSelector=f"app={app}")

    def ready(self, app: str) -> list[dict[str, Any]]:
        return [p for p in self.pods(app) if is_ready(p) and not p["metadata"].get("deletionTimestamp")]

    def run(self, name: str, replicas: int, **spec: Any) -> None:
        """Make a deployment and wait until all its pods are ready."""
        self.make("deployments", deployment(name, replicas, **spec))
        eventually(lambda: len(self.ready(name)) == replicas, f"{name} runs")

    def zones(self, app: str) -> dict[str, int]:
        """Return how many ready pods of an app there are in each zone, by its letter."""
        zone = {n["metadata"]["name"]: n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in self.nodes()}
        return dict(sorted(Counter(zone[p["spec"]["nodeName"]][-1] for p in self.ready(app)).items()))

    def nodes(self) -> list[dict[str, Any]]:
        return self.client.items(NODES)

    def nodes_of(self, letter: str) -> list[str]:
        return self.client.names(NODES, labelSelector=f"topology.kubernetes.io/zone=eu-central-1{letter}")

    def evict(self, name: str) -> None:
        meta = {"name": name, "namespace": self.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
        self.client.ask("POST", self.path("pods", name, "eviction"), body)


def is_ready(obj: dict[str, Any]) -> bool:
    conditions = obj.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


@pytest.fixture(scope="module")
def _cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(
        tmp_path_factory.mktemp("kube"), three_zones("eu-central-1"), runtime=Delayed(start_s=0.1), speed=SPEED
    )
    yield cluster
    cluster.close()


@pytest.fixture
def ground(_cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """Give a namespace of the test's own; every node is ready, and takes pods."""
    made = Ground(_cluster)
    eventually(lambda: all(is_ready(n) and not n["spec"].get("taints") for n in made.nodes()), "every node is ready")
    made.namespace = "t-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[-40:].strip("-")
    made.client.ask("POST", "/api/v1/namespaces", {"metadata": {"name": made.namespace}})
    yield made
    for name in made.client.names(NODES):
        _cluster.kubelets.find_again(name)
        made.client.ask("PATCH", f"{NODES}/{name}", {"spec": {"unschedulable": None}}, MERGE)
    made.client.ask("DELETE", f"/api/v1/namespaces/{made.namespace}")


class TestAccess:
    def test_only_its_kubeconfig_lets_one_in(self, ground: Ground) -> None:
        kubeconfig = ground.cluster.kubeconfig
        assert stat.S_IMODE(kubeconfig.stat().st_mode) == 0o600
        assert ground.cluster.url.startswith("https://127.0.0.1:")
        with pytest.raises(Refused) as refused:
            Client(kubeconfig, token="another").get(NODES)
        assert refused.value.code == 401

    def test_what_it_does_not_serve_is_not_found(self, ground: Ground) -> None:
        for path in ("/apis/batch/v1/jobs", "/api/v1/nonsense", "/nowhere", f"{NODES}/nobody"):
            with pytest.raises(Refused) as refused:
                ground.client.get(path)
            assert (refused.value.code, refused.value.reason) == (404, "NotFound")

    def test_nodes_are_labelled_as_on_eks(self, ground: Ground) -> None:
        nodes = ground.nodes()
        kinds = Counter(n["metadata"]["labels"]["eks.amazonaws.com/capacityType"] for n in nodes)
        assert kinds == Counter(SPOT=3, ON_DEMAND=3)
        assert {n["metadata"]["labels"]["kubernetes.io/arch"] for n in nodes} == {"arm64"}
        assert all(n["spec"]["providerID"].startswith("aws:///eu-central-1") for n in nodes)


class TestObjects:
    def test_a_name_is_taken_once(self, ground: Ground) -> None:
        ground.make("configmaps", {"metadata": {"name": "one"}})
        with pytest.raises(Refused) as refused:
            ground.make("configmaps", {"metadata": {"name": "one"}})
        assert (refused.value.code, refused.value.reason) == (409, "AlreadyExists")

    def test_of_two_changes_to_one_version_the_second_is_refused(self, ground: Ground) -> None:
        made = ground.make("configmaps", {"metadata": {"name": "one"}, "data": {"a": "1"}})
        path = ground.path("configmaps", "one")
        ground.client.ask("PUT", path, {**made, "data": {"a": "2"}})
        with pytest.raises(Refused) as refused:
            ground.client.ask("PUT", path, {**made, "data": {"a": "3"}})
        assert (refused.value.code, refused.value.reason) == (409, "Conflict")
        assert ground.client.get(path)["data"] == {"a": "2"}

    def test_status_and_spec_are_changed_apart(self, ground: Ground) -> None:
        ground.make("pods", pod("one", nodeSelector={"no": "where"}))
        path = ground.path("pods", "one")
        ground.client.ask("PATCH", path, {"status": {"phase": "Failed"}, "metadata": {"labels": {"x": "y"}}}, MERGE)
        now = ground.client.get(path)
        assert (now["status"]["phase"], now["metadata"]["labels"]["x"]) == ("Pending", "y")
        ground.client.ask("PATCH", f"{path}/status", {"status": {"message": "m"}, "metadata": {"labels": {}}}, MERGE)
        now = ground.client.get(path)
        assert (now["status"]["message"], now["metadata"]["labels"]["x"]) == ("m", "y")

    @pytest.mark.parametrize(
        ("kind", "patch"),
        [
            (MERGE, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "new"}]}}}}),
            (STRATEGIC, {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "new"}]}}}}),
            (JSON_PATCH, [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "new"}]),
        ],
    )
    def test_three_kinds_of_patches(self, ground: Ground, kind: str, patch: Any) -> None:
        containers = [{"name": "main", "image": "lab", "command": ["c"]}, {"name": "side", "image": "s"}]
        ground.make("deployments", deployment("d", 0, containers=containers))
        now = ground.client.ask("PATCH", ground.path("deployments", "d"), patch, kind)
        found = now["spec"]["template"]["spec"]["containers"]
        assert found[0]["image"] == "new"
        assert len(found) == (1 if kind == MERGE else 2)
        assert ("command" in found[0]) == (kind != MERGE)

    def test_selectors(self, ground: Ground) -> None:
        for name, labels in {"a": {"x": "1"}, "b": {"x": "2", "y": ""}, "c": {}}.items():
            ground.make("configmaps", {"metadata": {"name": name, "labels": labels}})
        path = ground.path("configmaps")
        wanted = {
            "x=1": ["a"], "x!=1": ["b", "c"], "x": ["a", "b"], "!x": ["c"], "x in (1,2),y": ["b"],
            "x notin (1)": ["b", "c"],
        }  # fmt: skip
        assert {s: ground.client.names(path, labelSelector=s) for s in wanted} == wanted
        assert ground.client.names(path, fieldSelector="metadata.name=b") == ["b"]
        with pytest.raises(Refused, match="field label not supported"):
            ground.client.get(path, fieldSelector="data.a=b")

    def test_a_watch_tells_what_enters_and_what_leaves_its_selector(self, ground: Ground) -> None:
        path = ground.path("configmaps")
        version = ground.client.get(path)["metadata"]["resourceVersion"]
        with ground.client.watch(path, labelSelector="in=yes", resourceVersion=version, timeoutSeconds="20") as events:
            ground.make("configmaps", {"metadata": {"name": "one"}})
            for labels in ({"in": "yes"}, {"in": "yes", "more": "1"}, {"in": "no"}):
                ground.client.ask("PATCH", ground.path("configmaps", "one"), {"metadata": {"labels": labels}}, MERGE)
            assert [next(events)[0] for _ in range(3)] == ["ADDED", "MODIFIED", "DELETED"]

    def test_a_watch_of_what_is_forgotten_says_so(self, ground: Ground) -> None:
        with ground.client.watch(ground.path("configmaps"), resourceVersion="1", timeoutSeconds="20") as events:
            kind, status = next(events)
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")

    def test_a_precondition_that_does_not_hold_keeps_the_object(self, ground: Ground) -> None:
        ground.make("configmaps", {"metadata": {"name": "one"}})
        with pytest.raises(Refused) as refused:
            ground.client.ask("DELETE", ground.path("configmaps", "one"), {"preconditions": {"uid": "another"}})
        assert refused.value.code == 409
        assert ground.client.names(ground.path("configmaps"), fieldSelector="metadata.name=one") == ["one"]

    def test_what_nobody_owns_any_more_is_removed(self, ground: Ground) -> None:
        ground.run("d", 2)
        ground.client.ask("DELETE", ground.path("deployments", "d"))
        eventually(lambda: not ground.pods("d") and not ground.client.items(ground.path("replicasets")), "all is gone")


class TestWorkloads:
    def test_a_pod_that_is_deleted_is_replaced(self, ground: Ground) -> None:
        ground.run("d", 3)
        before = {p["metadata"]["name"] for p in ground.pods("d")}
        ground.client.ask("DELETE", ground.path("pods", min(before)))
        eventually(
            lambda: (
                len(ground.ready("d")) == 3 and min(before) not in {p["metadata"]["name"] for p in ground.pods("d")}
            ),
            "another one is ready in its place",
        )

    def test_a_rollout_never_has_fewer_than_its_limits_allow(self, ground: Ground) -> None:
        ground.run("d", 4)
        path = ground.path("deployments", "d")
        change = {"spec": {"template": {"metadata": {"annotations": {"again": "1"}}}}}
        ground.client.ask("PATCH", path, change, MERGE)
        least = []

        def rolled() -> bool:
            least.append(len(ground.ready("d")))
            status = ground.client.get(path)["status"]
            return bool(status.get("updatedReplicas") == status.get("replicas") == status.get("availableReplicas") == 4)

        eventually(rolled, "it is rolled out")
        assert min(least) >= 3  # 25 % of 4 may be missing
        assert len({p["metadata"]["labels"]["pod-template-hash"] for p in ground.ready("d")}) == 1

    def test_scale(self, ground: Ground) -> None:
        ground.run("d", 1)
        path = ground.path("deployments", "d", "scale")
        scale = ground.client.get(path)
        assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 1)
        ground.client.ask("PUT", path, {**scale, "spec": {"replicas": 3}})
        eventually(lambda: len(ground.ready("d")) == 3, "three")
        ground.client.ask("PATCH", path, {"spec": {"replicas": 0}}, MERGE)
        eventually(lambda: not ground.pods("d"), "none")

    def test_a_daemon_is_on_every_node_whatever_becomes_of_it(self, ground: Ground) -> None:
        document = deployment("agent", 1)
        del document["spec"]["replicas"]
        ground.client.ask("PATCH", f"{NODES}/{ground.nodes_of('a')[0]}", {"spec": {"unschedulable": True}}, MERGE)
        ground.make("daemonsets", document)
        everywhere = {n["metadata"]["name"] for n in ground.nodes()}
        eventually(lambda: {p["spec"]["nodeName"] for p in ground.ready("agent")} == everywhere, "one on each node")

    def test_endpoints_are_the_ready_pods_with_their_zones(self, ground: Ground) -> None:
        ground.run("d", 3)
        ground.make(
            "services", {"metadata": {"name": "d"}, "spec": {"selector": {"app": "d"}, "ports": [{"port": 80}]}}
        )

        def ready_endpoints() -> list[str]:
            slices = ground.client.items(ground.path("endpointslices"), labelSelector="kubernetes.io/service-name=d")
            return sorted(e["zone"] for s in slices for e in s["endpoints"] if e["conditions"]["ready"])

        eventually(lambda: ready_endpoints() == [f"eu-central-1{x}" for x in "abc"], "one in each zone")


class TestScheduling:
    def test_what_a_pod_asks_for_has_to_be_there(self, ground: Ground) -> None:
        containers = [{"name": "main", "image": "lab", "resources": {"requests": {"cpu": "1500m"}}}]
        ground.run("d", 6, containers=containers)  # one on each node
        ground.make("pods", pod("more", containers=containers))

        def said() -> str:
            conditions = ground.client.get(ground.path("pods", "more"))["status"].get("conditions", ())
            return next((c.get("message", "") for c in conditions if c["type"] == "PodScheduled"), "")

        eventually(lambda: said() == "0/6 nodes are available: 6 Insufficient cpu.", "it says why it waits")
        ground.client.ask("PATCH", ground.path("deployments", "d", "scale"), {"spec": {"replicas": 5}}, MERGE)
        eventually(lambda: len(ground.ready("more")) == 1, "it has the room that became free")

    def test_taints_and_selectors(self, ground: Ground) -> None:
        (node, *_), taint = ground.nodes_of("a"), {"key": "only", "value": "spot", "effect": "NoSchedule"}
        path = f"{NODES}/{node}"
        ground.client.ask("PATCH", path, {"spec": {"taints": [taint]}}, MERGE)
        try:
            there = {"kubernetes.io/hostname": node}
            ground.make("pods", pod("without", nodeSelector=there))
            tolerations = [{"key": "only", "operator": "Equal", "value": "spot", "effect": "NoSchedule"}]
            ground.make("pods", pod("with", nodeSelector=there, tolerations=tolerations))
            eventually(lambda: [p["spec"]["nodeName"] for p in ground.ready("with")] == [node], "the one that may")
            assert "nodeName" not in ground.client.get(ground.path("pods", "without"))["spec"]
        finally:
            ground.client.ask("PATCH", path, {"spec": {"taints": None}}, MERGE)

    def test_a_lost_zone_holds_up_a_hard_spread_unless_its_taints_are_honoured(self, ground: Ground) -> None:
        for name, more in (("trap", {}), ("free", {"nodeTaintsPolicy": "Honor"})):
            ground.run(name, 3, topologySpreadConstraints=spread(name, hard=True, **more))
            assert ground.zones(name) == {"a": 1, "b": 1, "c": 1}
        for node in ground.nodes_of("a"):
            ground.client.ask("PATCH", f"{NODES}/{node}", {"spec": {"unschedulable": True}}, MERGE)
        for name in ("trap", "free"):
            path = ground.path("deployments", name, "scale")
            ground.client.ask("PATCH", path, {"spec": {"replicas": 6}}, MERGE)
        eventually(lambda: len(ground.ready("free")) == 6, "all of it runs in the two zones")
        eventually(lambda: ground.zones("trap") == {"a": 1, "b": 2, "c": 2}, "one more in each zone, and no further")
        (waits,) = (p for p in ground.pods("trap") if not p["spec"].get("nodeName"))
        (why,) = (c["message"] for c in waits["status"]["conditions"] if c["type"] == "PodScheduled")
        assert "4 node(s) didn't match pod topology spread constraints" in why


class TestDisruption:
    def test_a_budget_lets_go_as_many_as_it_says(self, ground: Ground) -> None:
        ground.run("d", 3)
        ground.make("poddisruptionbudgets", budget("b", "d", minAvailable=2))
        path = ground.path("poddisruptionbudgets", "b")
        eventually(lambda: ground.client.get(path)["status"].get("disruptionsAllowed") == 1, "one may go")
        first, second, _ = (p["metadata"]["name"] for p in ground.ready("d"))
        ground.evict(first)
        with pytest.raises(Refused) as refused:
            ground.evict(second)
        assert (refused.value.code, refused.value.reason) == (429, "TooManyRequests")
        (cause,) = refused.value.status["details"]["causes"]
        assert (cause["reason"], "disruption budget b" in cause["message"]) == ("DisruptionBudget", True)
        eventually(lambda: ground.client.get(path)["status"]["disruptionsAllowed"] == 1, "one may go again")

    @pytest.mark.parametrize(
        ("limit", "allowed"), [({"maxUnavailable": 1}, 1), ({"maxUnavailable": "50%"}, 2), ({"minAvailable": "51%"}, 1)]
    )
    def test_the_arithmetic_of_budgets(self, ground: Ground, limit: dict[str, Any], allowed: int) -> None:
        ground.run("d", 4)
        ground.make("poddisruptionbudgets", budget("b", "d", **limit))
        path = ground.path("poddisruptionbudgets", "b")
        eventually(lambda: ground.client.get(path)["status"].get("disruptionsAllowed") == allowed, f"{allowed} may go")

    def test_two_budgets_on_one_pod_are_an_error(self, ground: Ground) -> None:
        ground.run("d", 1)
        for name in ("b1", "b2"):
            ground.make("poddisruptionbudgets", budget(name, "d", minAvailable=0))
        with pytest.raises(Refused, match="more than one PodDisruptionBudget") as refused:
            ground.evict(ground.ready("d")[0]["metadata"]["name"])
        assert refused.value.code == 500

    def test_an_eviction_in_protobuf_as_kubectl_sends_it(self, ground: Ground) -> None:
        ground.run("d", 1)
        (name,) = (p["metadata"]["name"] for p in ground.ready("d"))

        def field(number: int, raw: bytes) -> bytes:
            return bytes([number << 3 | 2, len(raw)]) + raw

        meta = field(1, name.encode()) + field(3, ground.namespace.encode())
        kind = field(1, field(1, b"policy/v1") + field(2, b"Eviction"))
        body = b"k8s\x00" + kind + field(2, field(1, meta))
        ground.client.ask("POST", ground.path("pods", name, "eviction"), body, "application/vnd.kubernetes.protobuf")
        eventually(lambda: name not in {p["metadata"]["name"] for p in ground.pods("d")}, "it is gone")


class TestNodes:
    def test_a_lost_zone_is_left_and_a_pod_on_it_stays_terminating_until_it_is_back(self, ground: Ground) -> None:
        ground.run("d", 6, topologySpreadConstraints=spread("d", hard=False))
        lost = ground.nodes_of("a")
        for node in lost:
            ground.cluster.kubelets.lose(node)

        def states() -> set[str]:
            nodes = [ground.client.get(f"{NODES}/{name}") for name in lost]
            return {next(c["status"] for c in n["status"]["conditions"] if c["type"] == "Ready") for n in nodes}

        eventually(lambda: states() == {"Unknown"}, "its nodes are not ready")
        eventually(lambda: ground.zones("d") == {"b": 3, "c": 3}, "the others run all of it")
        effects = {t["effect"] for n in lost for t in ground.client.get(f"{NODES}/{n}")["spec"]["taints"]}
        assert effects == {"NoSchedule", "NoExecute"}
        stay = [p for p in ground.pods("d") if p["spec"]["nodeName"] in lost]
        assert len(stay) == 2
        assert all(p["metadata"].get("deletionTimestamp") for p in stay)
        for node in lost:
            ground.cluster.kubelets.find_again(node)
        eventually(lambda: len(ground.pods("d")) == 6, "what stayed is gone")
        assert ground.zones("d") == {"b": 3, "c": 3}  # nothing moves back by itself
        eventually(lambda: not any(n["spec"].get("taints") for n in ground.nodes()), "no taint is left")

    def test_a_pod_that_tolerates_it_for_ever_stays(self, ground: Ground) -> None:
        (node, *_) = ground.nodes_of("b")
        tolerations = [{"operator": "Exists"}]
        ground.make("pods", pod("stays", nodeName=node, tolerations=tolerations))
        ground.make("pods", pod("goes", nodeName=node))
        eventually(lambda: len(ground.ready("stays") + ground.ready("goes")) == 2, "both run")
        ground.cluster.kubelets.lose(node)
        path = ground.path("pods", "goes")
        eventually(lambda: bool(ground.client.get(path)["metadata"].get("deletionTimestamp")), "it is sent away")
        assert "deletionTimestamp" not in ground.client.get(ground.path("pods", "stays"))["metadata"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
class TestKubectl:
    def kubectl(self, ground: Ground, *words: str, stdin: str = "") -> str:
        command = ["kubectl", "--kubeconfig", str(ground.cluster.kubeconfig), "-n", ground.namespace, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_a_day_with_it(self, ground: Ground) -> None:
        document = {"apiVersion": "apps/v1", "kind": "Deployment", **deployment("d", 3)}
        limits = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", **budget("b", "d", minAvailable=2)}
        listed = "\n---\n".join(json.dumps(d) for d in (document, limits))
        assert "created" in self.kubectl(ground, "apply", "-f", "-", stdin=listed)
        assert "unchanged" in self.kubectl(ground, "apply", "-f", "-", stdin=listed)
        assert "successfully rolled out" in self.kubectl(ground, "rollout", "status", "deployment/d", "--timeout=60s")
        self.kubectl(ground, "scale", "deployment/d", "--replicas=4")
        self.kubectl(ground, "wait", "--for=jsonpath={.status.readyReplicas}=4", "deployment/d", "--timeout=60s")
        node = ground.ready("d")[0]["spec"]["nodeName"]
        assert "Ready" in self.kubectl(ground, "get", "nodes")
        assert node in self.kubectl(ground, "describe", "node", node)
        assert f"node/{node} drained" in self.kubectl(ground, "drain", node, "--ignore-daemonsets", "--timeout=60s")
        assert not any(p["spec"]["nodeName"] == node for p in ground.ready("d"))
        assert "SchedulingDisabled" in self.kubectl(ground, "get", "node", node)
        assert "uncordoned" in self.kubectl(ground, "uncordon", node)


def test_its_files_hold_the_key_of_nobody_else(tmp_path: Path) -> None:
    clusters = [Cluster(tmp_path / name, (), runtime=Delayed()) for name in ("one", "two")]
    try:
        configs = [json.loads(c.kubeconfig.read_text()) for c in clusters]
        assert len({c["users"][0]["user"]["token"] for c in configs}) == 2
        authorities = {c["clusters"][0]["cluster"]["certificate-authority-data"] for c in configs}
        assert all(b"PRIVATE" not in base64.b64decode(a) for a in authorities)
        assert len(authorities) == 2
        assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*") if p.is_file()} == {0o600}
    finally:
        for cluster in clusters:
            cluster.close()
