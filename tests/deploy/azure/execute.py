"""Runs KQL on rows, with DuckDB.

Reads a list of `{"table", "columns": [[name, type]], "rows": [{}], "query"}` from standard input and prints, for each, the rows of the
answer. As in a workspace, a text that is absent is empty, and anything else null.
"""

import datetime
import decimal
import json
import sys

import duckdb_kql

TYPES = {"string": "VARCHAR", "long": "BIGINT", "int": "INTEGER", "real": "DOUBLE", "boolean": "BOOLEAN", "datetime": "TIMESTAMP", "dynamic": "JSON"}


def cell(value, kind):
    if value is None:
        return "" if kind == "string" else None
    if kind == "dynamic":
        return json.dumps(value)
    # DuckDB's time has no zone: all of it is UTC.
    return value.removesuffix("Z") if kind == "datetime" else value


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="microseconds") + "Z"
    if isinstance(value, decimal.Decimal):
        return int(value) if value == int(value) else float(value)
    return value


def answer(asked):
    connection = duckdb_kql.connect()
    columns = [(column, kind.lower()) for column, kind in asked["columns"]]
    declared = ", ".join(f'"{column}" {TYPES[kind]}' for column, kind in columns)
    connection.execute(f'CREATE TABLE "{asked["table"]}" ({declared})')
    rows = [[cell(row.get(column), kind) for column, kind in columns] for row in asked["rows"]]
    if rows:
        connection.executemany(f'INSERT INTO "{asked["table"]}" VALUES ({", ".join("?" * len(columns))})', rows)
    found = duckdb_kql.query(connection, asked["query"])
    names = found.columns
    return [dict(zip(names, map(plain, row))) for row in found.fetchall()]


print(json.dumps([answer(asked) for asked in json.load(sys.stdin)]))
