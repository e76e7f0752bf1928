"""`python -m allotment_testkit.s3_process`: an S3 server in memory, until stdin ends.

Prints its port on 127.0.0.1.
"""

import logging
import sys

from moto.server import ThreadedMotoServer


def main() -> None:
    logging.disable(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
