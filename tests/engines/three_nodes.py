"""A Ray cluster in a separate process: a head node without processors and two nodes with one processor, on this machine.

It prints its address and the ids of the two nodes; it kills each node whose id it reads from standard input.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

#: bytes of shared memory: the minimum of Ray
STORE = 80 * 2**20
#: settings to detect a lost node quickly
SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


def main() -> None:
    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = {node.node_id: node for node in (cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2))}
        print(cluster.address, *nodes, flush=True)
        for line in sys.stdin:
            cluster.remove_node(nodes.pop(line.strip()), allow_graceful=False)
            print(*nodes, flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
