"""A Google-compatible storage in a separate process, because pyarrow blocks all threads of the process that waits for it.

It prints its port, and ends when its standard input is closed.
"""

from __future__ import annotations

import sys

from gcp_storage_emulator import server


def main() -> None:
    storage = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    storage.start()
    print(storage._api._httpd.server_address[1], flush=True)
    sys.stdin.read()
    storage.stop()


if __name__ == "__main__":
    main()
