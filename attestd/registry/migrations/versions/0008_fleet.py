"""The fleet in numbers: counts that the database itself keeps, words by which devices are found, results over time.

Triggers keep the first two, so that no way of changing a device can forget them (docs/adr/0046).

Revision: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_TOLD = sa.table(
    "told", sa.column("name", sa.String), sa.column("until", sa.BigInteger), sa.column("device_id", sa.String)
)
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _text() -> sa.String:
    """Sorted by its octets on every database."""
    return sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _group() -> list[sa.Column[str]]:
    return [sa.Column(name, _text(), nullable=False) for name in ("tier", "site", "state", "result_status")]


def upgrade() -> None:
    """Tables, what fills them from the devices that are there, and the triggers that keep them."""
    op.add_column("devices", sa.Column("result_status", _text()))
    bad = sa.text("result_status IN ('warning', 'contraindicated')")
    op.create_index(
        "ix_devices_result_status_id", "devices", ["result_status", "id"], sqlite_where=bad, postgresql_where=bad
    )
    op.create_table(
        "fleet_counts",
        *_group(),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tier", "site", "state", "result_status", name="pk_fleet_counts"),
    )
    op.create_table(
        "fleet_changes",
        sa.Column("number", _NUMBER, nullable=False),
        *_group(),
        sa.Column("delta", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_fleet_changes"),
    )
    op.create_table(
        "device_terms",
        sa.Column("device_id", _text(), nullable=False),
        sa.Column("term", _text(), nullable=False),
        sa.Column("kind", _text(), nullable=False),
        sa.PrimaryKeyConstraint("device_id", "term", "kind", name="pk_device_terms"),
    )
    op.create_index("ix_device_terms_term_kind_device_id", "device_terms", ["term", "kind", "device_id"])
    op.create_table(
        "result_counts",
        sa.Column("at", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("status", _text(), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("at", "status", name="pk_result_counts"),
    )
    op.create_table(
        "result_marks",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("status", _text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_result_marks"),
    )
    op.create_table(
        "refusals",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("verb", _text(), nullable=False),
        sa.Column("why", _text(), nullable=False),
        sa.Column("site", _text(), nullable=False),
        sa.Column("device_id", _text(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_refusals"),
    )
    op.create_table(
        "refusal_counts",
        sa.Column("at", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("why", _text(), nullable=False),
        sa.Column("site", _text(), nullable=False),
        sa.Column("verb", _text(), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("devices", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("at", "why", "site", "verb", name="pk_refusal_counts"),
    )
    op.bulk_insert(_TOLD, [{"name": "counted", "until": 0, "device_id": ""}])
    statements = _postgresql() if op.get_bind().dialect.name == "postgresql" else _sqlite()
    for statement in statements:
        op.execute(statement)


# ---- What both say alike ----------------------------------------------------------------------------------------

_GROUP = "tier, site, state, result_status"
_COUNTED = f"""
INSERT INTO fleet_counts ({_GROUP}, count)
SELECT coalesce(tier, ''), coalesce(site, ''), state, coalesce(result_status, 'none'), count(*)
FROM devices GROUP BY 1, 2, 3, 4
"""  # noqa: S608 - texts of ours


def _change(row: str, delta: int) -> str:
    return (
        f"INSERT INTO fleet_changes ({_GROUP}, delta) VALUES (coalesce({row}.tier, ''), coalesce({row}.site, ''), "  # noqa: S608
        f"{row}.state, coalesce({row}.result_status, 'none'), {delta});"
    )


def _terms(row: str, labels: str, *, of: str = "") -> str:
    """A device's terms: in lower case, as far as ASCII goes, and cut, so that an index can hold them."""
    name = "l.key || '=' || l.value"

    def folded(value: str) -> str:
        return f"substr(lower({value}), 1, 200)"

    pair = f'({name}) COLLATE "C"' if labels.endswith("_text") else name
    value = 'l.value COLLATE "C"' if labels.endswith("_text") else "l.value"
    source = f" FROM {of}" if of else ""
    joined = f"{of} CROSS JOIN " if of and labels == "json_each" else f"{of} CROSS JOIN LATERAL " if of else ""
    return f"""
INSERT INTO device_terms (device_id, term, kind)
SELECT {row}.id, {folded(f"{row}.serial_number")}, 'serial'{source} WHERE {row}.serial_number <> ''
UNION SELECT {row}.id, {folded(f"{row}.manufacturer")}, 'maker'{source} WHERE {row}.manufacturer <> ''
UNION SELECT {row}.id, {folded(f"{row}.model")}, 'model'{source} WHERE {row}.model <> ''
UNION SELECT {row}.id, {folded(pair)}, 'label' FROM {joined}{labels}({row}.labels) AS l
UNION SELECT {row}.id, {folded(value)}, 'value' FROM {joined}{labels}({row}.labels) AS l WHERE l.value <> '';
"""  # noqa: S608 - texts of ours


_FORGOTTEN = "DELETE FROM device_terms WHERE device_id = OLD.id;"
_NAMED = ("serial_number", "manufacturer", "model")


# ---- SQLite -----------------------------------------------------------------------------------------------------


def _sqlite() -> tuple[str, ...]:
    regrouped = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in _GROUP.split(", "))
    renamed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in (*_NAMED, "labels"))
    named = ", ".join((*_NAMED, "labels"))
    new = _terms("NEW", "json_each")
    return (
        "UPDATE devices SET result_status = json_extract(result, '$.status') WHERE attested_at IS NOT NULL",
        _COUNTED,
        _terms("devices", "json_each", of="devices"),
        f"CREATE TRIGGER devices_come AFTER INSERT ON devices BEGIN {_change('NEW', 1)} {new} END",
        f"CREATE TRIGGER devices_go AFTER DELETE ON devices BEGIN {_change('OLD', -1)} {_FORGOTTEN} END",
        f"CREATE TRIGGER devices_regroup AFTER UPDATE OF {_GROUP} ON devices WHEN {regrouped} "
        f"BEGIN {_change('OLD', -1)} {_change('NEW', 1)} END",
        f"CREATE TRIGGER devices_rename AFTER UPDATE OF {named} ON devices WHEN {renamed} BEGIN {_FORGOTTEN} {new} END",
    )


# ---- PostgreSQL -------------------------------------------------------------------------------------------------


def _postgresql() -> tuple[str, ...]:
    regrouped = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in _GROUP.split(", "))
    renamed = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in _NAMED)
    renamed += " OR OLD.labels::text IS DISTINCT FROM NEW.labels::text"
    named = ", ".join((*_NAMED, "labels"))
    new = _terms("NEW", "json_each_text")

    def function(name: str, does: str) -> str:
        return f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does} RETURN NULL; END $$"

    def trigger(name: str, when: str) -> str:
        event, _, condition = when.partition(" WHEN ")
        condition = f" WHEN ({condition})" if condition else ""
        return f"CREATE TRIGGER {name} AFTER {event} ON devices FOR EACH ROW{condition} EXECUTE FUNCTION {name}()"

    return (
        "UPDATE devices SET result_status = result->>'status' WHERE attested_at IS NOT NULL",
        _COUNTED,
        _terms("devices", "json_each_text", of="devices"),
        function("devices_come", f"{_change('NEW', 1)} {new}"),
        function("devices_go", f"{_change('OLD', -1)} {_FORGOTTEN}"),
        function("devices_regroup", f"{_change('OLD', -1)} {_change('NEW', 1)}"),
        function("devices_rename", f"{_FORGOTTEN} {new}"),
        trigger("devices_come", "INSERT"),
        trigger("devices_go", "DELETE"),
        trigger("devices_regroup", f"UPDATE OF {_GROUP} WHEN {regrouped}"),
        trigger("devices_rename", f"UPDATE OF {named} WHEN {renamed}"),
    )
