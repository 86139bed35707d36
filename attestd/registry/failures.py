"""What can be wrong with a database, by name: the same names whichever database it is."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from attestd.errors import Misconfigured, Unavailable

# A unique key is taken: SQLite's extended result codes (sqlite.org/rescode.html), PostgreSQL's SQLSTATE (appendix A).
_SQLITE_UNIQUE = frozenset({2067, 1555, 2579})  # CONSTRAINT_UNIQUE, CONSTRAINT_PRIMARYKEY, CONSTRAINT_ROWID
POSTGRESQL_UNIQUE = "23505"


class DatabaseBusy(Unavailable):
    """The database is busy"""


class DatabaseNotWritable(Unavailable):
    """The database can't be written"""

    remedy = "Free space on its file system, and check that the service's user may write the database."


class DatabaseUnreachable(Unavailable):
    """The database can't be opened"""

    remedy = "Check the configured database, that it runs, and that the service's user may open it."


class DatabaseDamaged(Unavailable):
    """The database is damaged"""

    remedy = "Restore the latest backup: `attestd restore`; every device then attests again."


class DatabaseFailed(Unavailable):
    """The database refused a statement"""

    remedy = "Look at the database's own log. If this repeats, report it to the project."


class DatabaseUnsupported(Misconfigured):
    """This kind of database is not supported"""

    remedy = (
        "Configure a file, sqlite:////absolute/path/to/registry.db, or PostgreSQL, postgresql://user@host/database."
    )


class SchemaOutdated(Misconfigured):
    """The database's tables are older than this program"""

    remedy = "Run `attestd backup FILE`, then `attestd upgrade`."


class SchemaTooNew(Misconfigured):
    """The database's tables are newer than this program"""

    remedy = "Run the program version that last opened this database, or a later one."


class OpenedBeforeFork(Misconfigured):
    """The registry was opened in another process"""

    remedy = "Open the registry after forking; database connections do not survive a fork."


def is_unique_violation(error: IntegrityError) -> bool:
    """Whether a statement failed because a row with this unique value exists already."""
    return is_taken(error.orig)


def is_taken(error: object) -> bool:
    """The same of a driver's own error."""
    return (
        getattr(error, "sqlite_errorcode", None) in _SQLITE_UNIQUE
        or getattr(error, "sqlstate", None) == POSTGRESQL_UNIQUE
    )
