"""Raises while it is imported."""


def connect_to_database():
    raise RuntimeError("no database at db.internal:5432")


connect_to_database()
