"""Every service in a process of its own, until Ctrl-C or SIGTERM.

    python -m allotment_testkit.services [--dir FOLDER] [--port P] [--set SERVICE.VARIABLE=VALUE]

PostgreSQL and an S3 server are started too, for as long as it runs, unless ALLOTMENT_TEST_POSTGRES
or S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY name others (a new database and bucket there). What
is stored is gone at the end. A service that dies is started again.
"""

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="make services")
    parser.add_argument("--dir", type=Path, help="for logs, keys and certificates; has to be empty")
    parser.add_argument("--port", type=int, default=0, help="of the gateway")
    parser.add_argument("--replicas", type=int, default=1, help="of allocator and controller")
    parser.add_argument("--until-stdin-ends", action="store_true", help="ends with its starter")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SERVICE.VARIABLE=VALUE",
        help="a variable of one service's environment; repeatable",
    )
    arguments = parser.parse_args()
    more: dict[str, dict[str, str]] = {}
    for setting in arguments.set:
        where, _, value = setting.partition("=")
        service, _, variable = where.partition(".")
        more.setdefault(service, {})[variable] = value
    # Processes are forked while gRPC is in use; read when it is imported.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from allotment_testkit.services.running import run  # noqa: PLC0415

    return run(
        arguments.dir,
        arguments.port,
        until_stdin_ends=arguments.until_stdin_ends,
        replicas=arguments.replicas,
        more=more,
    )


if __name__ == "__main__":
    sys.exit(main())
