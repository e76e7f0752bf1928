"""The throw-away process of one export: `python -m allotment_exporter.child`.

It reads one job (JSON) from stdin, writes lines of JSON to stdout and ends. Nothing that it is
given is trusted: it may crash, hang or eat memory, and only it is hurt.
"""
