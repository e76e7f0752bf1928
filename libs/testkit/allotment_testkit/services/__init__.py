"""The services as processes of their own on this machine: `python -m allotment_testkit.services`.

Dataset, controller, allocator (with trainers) and exporter behind a gateway, with PostgreSQL, an S3
server, TLS, certificates between services and tokens: what a cluster has, without the cluster.
"""
