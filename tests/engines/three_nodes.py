"""A Ray cluster in a process of its own: a head that does no units and two nodes of one processor, all on this machine.

It says its address, then the name of each node that can be lost; a name on standard input is that of a node to kill.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

#: bytes of shared memory: Ray's least
STORE = 80 * 2**20
#: that a node is gone is noticed soon
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
