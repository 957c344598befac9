"""The table of the profile service."""

from sqlalchemy import Column, MetaData, String, Table, Text

from ostiary_chassis.sql import UtcDateTime

metadata = MetaData()

profiles = Table(
    "profiles",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("display_name", String(100)),
    Column("bio", Text),
    Column("website", Text),
    Column("revision", String(32), nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)
