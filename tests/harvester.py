"""What Harvester makes of a template: the Job and its environment, by the rules in harvester-k8s.md sections 2 and 3.

A description of what the plug-in does, written for these tests; nothing of it is Harvester's.
"""

import copy

EXEC_DIR = "/scratch/executables"
PILOT_DIR = "/pilotdir"
STOCK_COMMAND = ["/usr/bin/bash"]
STOCK_ARGUMENTS = ["-c", "cd; command -v python3 >/dev/null && python3 $EXEC_DIR/pilots_starter.py"]


def environment(job_name="pilot-4711", **other):
    """The variables that it sets, but for the node's name, which is a field of the pod; ``other`` ones win."""
    return {
        "computingSite": "LOCAL",
        "pandaQueueName": "LOCAL",
        "resourceType": "SCORE",
        "prodSourceLabel": "unified",
        "jobType": "unified",
        "pilotType": "PR",
        "pilotUrlOpt": "",
        "pythonOption": "--pythonversion 3",
        "pilotVersion": "current",
        "proxySecretPath": "/proxy/x509up",
        "PANDA_AUTH_ORIGIN": "atlas.pilot",
        "PANDA_AUTH_DIR": "",
        "PANDA_AUTH_TOKEN": "",
        "PANDA_AUTH_TOKEN_KEY": "",
        "workerID": "4711",
        "logs_frontend_w": "https://panda.example.org:25443/server/panda",
        "logs_frontend_r": "https://panda.example.org:25443/cache",
        "PANDA_JSID": "harvester-lab_k8s_1",
        "HARVESTER_WORKER_ID": "4711",
        "HARVESTER_ID": "lab_k8s_1",
        "submit_mode": "PULL",
        "EXEC_DIR": EXEC_DIR,
        "TMPDIR": PILOT_DIR,
        "HOME": PILOT_DIR,
        "K8S_JOB_ID": job_name,
        **other,
    }


def submitted(template, *, worker=4711, push=False, image=None, cores=2, memory_mib=4000, disk_mib=20480):
    """The Job that is sent to Kubernetes for a worker."""
    job = copy.deepcopy(template)
    job["metadata"]["name"] += f"-{worker}"
    pod = job["spec"]["template"]
    pod.setdefault("metadata", {})["labels"] = {"resourceType": "SCORE", "prodSourceLabel": "unified", "pq": "LOCAL"}
    spec = pod["spec"]
    container = spec["containers"][0]
    spec["containers"] = [container]
    container["image"] = image or container.get("image", "atlasadc/atlas-grid-centos7")
    if "command" not in container:
        container.update(command=STOCK_COMMAND, args=STOCK_ARGUMENTS)
    chosen = _fill_resources(container, cores, memory_mib, disk_mib)
    given = environment(job["metadata"]["name"], workerID=str(worker), HARVESTER_WORKER_ID=str(worker), **chosen)
    given["submit_mode"] = "PUSH" if push else "PULL"
    container.setdefault("env", []).extend(_entries(given))
    _mount(spec, container, worker if push else None)
    spec.setdefault("affinity", _affinity())
    spec.setdefault("activeDeadlineSeconds", 172800)
    return job


def _entries(given):
    """As they stand in the manifest: None and "" have no value there, and the node's name is a field."""
    named = [{"name": name, "value": text} if text else {"name": name} for name, text in given.items()]
    return [*named, {"name": "PANDA_HOSTNAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]


def _fill_resources(container, cores, memory_mib, disk_mib):
    """Fills what the template leaves open; the variables for what was chosen for the disk."""
    resources = container.setdefault("resources", {})
    requests, limits = resources.setdefault("requests", {}), resources.setdefault("limits", {})
    requests.setdefault("cpu", str(cores * 0.9))
    limits.setdefault("cpu", str(cores))
    requests.setdefault("memory", f"{float(memory_mib)}Mi")
    chosen = {}
    for kind, found in (("Request", requests), ("Limit", limits)):
        if "ephemeral-storage" not in found:
            found["ephemeral-storage"] = f"{float(disk_mib)}Mi"
            chosen[f"storage{kind}MiB"] = str(float(disk_mib))
    return chosen


def _mount(spec, container, pushed_to):
    """Scratch unless the template has it, the starter's ConfigMap, and in push mode the job's."""
    volumes, mounts = spec.setdefault("volumes", []), container.setdefault("volumeMounts", [])
    if not any(one["name"] == "pilot-dir" for one in volumes):
        volumes.append({"name": "pilot-dir", "emptyDir": {}})
        mounts.append({"name": "pilot-dir", "mountPath": PILOT_DIR})
    volumes.append({"name": "pilots-starter", "configMap": {"name": "pilots-starter"}})
    mounts.append({"name": "pilots-starter", "mountPath": EXEC_DIR})
    if pushed_to is not None:
        volumes.append({"name": "job-config", "configMap": {"name": str(pushed_to)}})
        mounts.append({"name": "job-config", "mountPath": "/scratch/jobconfig"})


def _affinity():
    """One-core pods are drawn to each other."""
    labels = {"matchExpressions": [{"key": "resourceType", "operator": "In", "values": ["SCORE", "SCORE_HIMEM"]}]}
    term = {"labelSelector": labels, "topologyKey": "kubernetes.io/hostname"}
    preferred = {"weight": 100, "podAffinityTerm": term}
    return {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}
