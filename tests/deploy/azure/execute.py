"""Runs KQL on rows, with DuckDB.

Reads `{"tables": {name: {"columns": [[name, type]], "rows": [{}]}}, "queries": {name: text}}` from standard input and prints, for each
query, its rows. As in a workspace, a text that is absent is empty, and anything else null.
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


def main():
    asked = json.load(sys.stdin)
    connection = duckdb_kql.connect()
    for name, table in asked["tables"].items():
        columns = [(column, kind.lower()) for column, kind in table["columns"]]
        declared = ", ".join(f'"{column}" {TYPES[kind]}' for column, kind in columns)
        connection.execute(f'CREATE TABLE "{name}" ({declared})')
        rows = [[cell(row.get(column), kind) for column, kind in columns] for row in table["rows"]]
        if rows:
            connection.executemany(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(columns))})', rows)
    answers = {}
    for name, query in asked["queries"].items():
        found = duckdb_kql.query(connection, query)
        names = found.columns
        answers[name] = [dict(zip(names, map(plain, row))) for row in found.fetchall()]
    print(json.dumps(answers))


main()
