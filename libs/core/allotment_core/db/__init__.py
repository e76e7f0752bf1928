"""SQL: one Database per service, durable writes in groups, snapshots for reads, migrations."""

from allotment_core.db.database import Database

__all__ = ["Database"]
