"""A small Kubernetes cluster for the lab: an API server on loopback, its controllers, nodes whose pods are processes.

    resources   which kinds it serves, and the errors it answers
    selectors   which objects a label or field selector means
    patches     merge, strategic merge and JSON patches
    defaults    what an object gets when it is made, and what makes it invalid
    store       all objects with their versions, and who watches them
    disruption  what a PodDisruptionBudget allows, and the eviction of a pod
    protobuf    the two messages that kubectl sends in it
    views       tables for kubectl get, discovery, the little OpenAPI that kubectl apply wants
    server      HTTPS: paths, verbs, watches
    access      certificate, token and kubeconfig
    controllers what changes objects by itself: nodes, workloads, scheduler, budgets, services, garbage

It behaves as Kubernetes 1.33 in what drkit and `kubectl get|describe|drain|cordon|apply|scale|rollout|wait` need, and
answers 404 or 501 for all else. Each behaviour is stated once in tests/integration/kube_conformance.
"""
