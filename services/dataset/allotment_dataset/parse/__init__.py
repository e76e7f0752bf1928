"""The parse child: a process of its own with hard limits that turns an untrusted file into Parquet
and a profile.

Only processes started as `python -m allotment_dataset.parse` import the modules here: they need
pyarrow and numpy.
"""
