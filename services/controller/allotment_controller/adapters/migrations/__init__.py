"""Alembic revisions of the controller's schema, in one line."""
