"""Runs the tables and queries of deploy/aws/athena on an archive, by DuckDB, and compares every answer with what the world's own truth says.

Each statement is parsed as Athena's and rewritten for DuckDB by sqlglot; the tables are made from the columns that the statements declare, so a column that
is missing, or has another type, shows in an answer. Prints how many rows each query answered.

Usage: athena.py ARCHIVE TRUTH: a folder with the names and bytes of the bucket below the prefix, and a JSON list of the events that the source holds, null for one that is
not UTF-8.
"""

import collections
import datetime
import gzip
import json
import pathlib
import re
import sys

import duckdb
import sqlglot
from sqlglot import exp

ATHENA = pathlib.Path(__file__).resolve().parents[3] / "deploy/aws/athena"
TODAY = datetime.datetime.now(datetime.timezone.utc).date()


def statement(name):
    [parsed] = sqlglot.parse((ATHENA / name).read_text(), read="athena")
    return parsed


def declared(table):
    """Columns and partition columns of a statement, with DuckDB's types."""
    assert isinstance(table, exp.Create), table
    columns = {one.name: one.args["kind"].sql("duckdb") for one in table.this.expressions}
    partitioned = table.find(exp.PartitionedByProperty)
    partitions = [one.name for one in partitioned.this.expressions]
    return columns, partitions


def properties(table):
    return {one.this.name: one.args["value"].name for one in table.find_all(exp.Property) if type(one) is exp.Property}


def names(kind, prefix=""):
    """Every name in a type, nested ones with dots."""
    parsed = exp.DataType.build(kind, dialect="duckdb")
    found = set()
    for one in parsed.expressions:
        found |= {prefix + one.name} | names(one.args["kind"].sql("duckdb"), f"{prefix}{one.name}.")
    return found


def paths(value, prefix=""):
    """Every name in a JSON object, nested ones with dots."""
    found = set()
    for name, inner in value.items():
        found.add(prefix + name)
        if isinstance(inner, dict):
            found |= paths(inner, f"{prefix}{name}.")
    return found


def of_another_type(kind, value, prefix=""):
    """Names whose values a column's type does not fit: DuckDB would make the best of them, Athena would not."""
    parsed = exp.DataType.build(kind, dialect="duckdb")
    if value is None:
        return set()
    if not parsed.expressions:
        fits = {"TEXT": str, "BOOLEAN": bool, "BIGINT": int, "INT": int}[kind]
        return set() if type(value) is fits else {prefix}
    values = {name.lower(): inner for name, inner in value.items()}
    inner = {one.name: one.args["kind"].sql("duckdb") for one in parsed.expressions}
    return {wrong for name, of in inner.items() if name in values for wrong in of_another_type(of, values[name], f"{prefix}.{name}")}


def as_archived(kind, real, prefix=""):
    """A type in DuckDB's form for JSON, with the archive's capitals: DuckDB minds them, Athena's SerDe does not."""
    parsed = exp.DataType.build(kind, dialect="duckdb")
    if not parsed.expressions:
        return kind
    spelt = {path.lower(): path.rsplit(".", 1)[-1] for path in real}
    inner = {one.name: one.args["kind"].sql("duckdb") for one in parsed.expressions}
    return {spelt.get(f"{prefix}{name}".lower(), name): as_archived(of, real, f"{prefix}{name}.") for name, of in inner.items()}


def matches(template, key):
    """The partition that a key lies in, by `storage.location.template`."""
    pattern = re.sub(r"\\\$\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
    return re.match(pattern, key)


def make(database, name, table, objects):
    """A table of DuckDB with the declared columns, filled from the objects that Athena would find."""
    columns, partitions = declared(table)
    settings = properties(table)
    location = table.find(exp.LocationProperty).this.name
    template = settings["storage.location.template"]
    assert template.startswith(location), (template, location)
    assert settings["projection.enabled"] == "true"
    assert {key.split(".")[1] for key in settings if re.fullmatch(r"projection\.\w+\.type", key)} == set(partitions)
    real = set()
    read = []
    for key, lines in objects.items():
        found = matches(template, f"s3://acme-audit/pulumi/{key}")
        if not found:
            continue
        place = found.groupdict()
        ids = settings["projection.org_id.values"].split(",")
        if place["org_id"] not in ids:
            continue
        if "day" in place:
            first = settings["projection.day.range"].split(",")[0]
            assert settings["projection.day.format"] == "yyyy-MM-dd" and re.fullmatch(r"\d{4}-\d{2}-\d{2}", place["day"])
            assert place["day"] >= first
        for line in filter(None, lines.split("\n")):
            values = json.loads(line)
            real |= paths(values)
            wrong = {one for column, kind in columns.items() if column in values for one in of_another_type(kind, values[column], column)}
            assert not wrong, f"of another type than declared: {wrong}"
            read.append((line, place))
    fields = {column: as_archived(kind, real, f"{column}.") for column, kind in columns.items()}
    spool = pathlib.Path(sys.argv[2]).with_suffix(f".{name}.jsonl")
    spool.write_text("".join(json.dumps({"line": line} | place) + "\n" for line, place in read))
    inside = ", ".join(f'line."{column}" AS "{column}"' for column in columns)
    places = ", ".join(f"{one}: 'VARCHAR'" for one in partitions)
    database.execute(
        f"CREATE TABLE {name} AS SELECT {inside}, {', '.join(partitions)} FROM (SELECT from_json(line, ?) AS line, {', '.join(partitions)} "
        f"FROM read_json(?, format = 'newline_delimited', columns = {{line: 'VARCHAR', {places}}}))",
        [json.dumps(fields), str(spool)],
    )
    known = {column.lower() for column in columns}
    for column, kind in columns.items():
        known |= {f"{column}.{one}".lower() for one in names(kind)}
    return {path.lower() for path in real}, known, len(read)


def answer(database, name):
    query = statement(name).sql("duckdb")
    found = database.execute(query)
    return [dict(zip([column[0] for column in found.description], row)) for row in found.fetchall()]


def kind_of(event):
    """The id of an event's type, whether the service sent that or its name for people."""
    return event["event"].lower().replace(" ", "-")


def rfc3339(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def login(event):
    return event["user"]["githubLogin"]


def compare(name, found, wanted, ordered_by=None):
    key = lambda row: json.dumps(row, sort_keys=True)
    missing = collections.Counter(map(key, wanted)) - collections.Counter(map(key, found))
    extra = collections.Counter(map(key, found)) - collections.Counter(map(key, wanted))
    assert not missing and not extra, f"{name}: missing {list(missing)[:3]}, extra {list(extra)[:3]}"
    assert found, f"{name} answers nothing, so nothing was compared"
    if ordered_by:
        values = [row[ordered_by] for row in found if row[ordered_by] is not None]
        assert values in (sorted(values), sorted(values, reverse=True)), f"{name} is not in order"


def main():
    archive, truth = pathlib.Path(sys.argv[1]), json.loads(pathlib.Path(sys.argv[2]).read_text())
    objects, claims = {}, {}
    for path in sorted(archive.rglob("*")):
        key = path.relative_to(archive).as_posix()
        if path.suffix == ".gz":
            objects[key] = gzip.decompress(path.read_bytes()).decode()
        elif key.startswith("_chain/") and path.is_file():
            text = path.read_text()
            assert text.strip().count("\n") == 0, "a claim is one line, as the SerDe wants it"
            claims[key] = text
    database = duckdb.connect()
    database.execute("SET TimeZone = 'UTC'")
    real, known, lines = make(database, "pulumi_audit", statement("table.sql"), objects)
    # What the table does not name are unknown fields of events alone; what it names but the archive lacks is documented and rare.
    unnamed = {path for path in real - known if not path.startswith("event.")}
    assert not unnamed, f"fields of a line without a column: {unnamed}"
    assert real - known == {"event.riskscore"}, real - known
    assert known - real == {"event.user.email"}, known - real
    claimed, columns, _ = make(database, "pulumi_audit_claims", statement("claims.sql"), claims)
    left_out = {"start", "coverage", "checkpoints", "audit"}
    assert {path for path in claimed if path.split(".")[0] not in left_out} == columns, claimed ^ columns
    assert lines == len(truth), (lines, len(truth))

    assert database.execute("SELECT count(*) FROM pulumi_audit WHERE event IS NULL AND event_base64 <> ''").fetchone() == (truth.count(None),)

    since = lambda days: (TODAY - datetime.timedelta(days=days)).isoformat()
    texts = [event for event in truth if event]
    timed = [event | {"day": rfc3339(event["timestamp"])[:10], "time": rfc3339(event["timestamp"])} for event in texts if isinstance(event.get("timestamp"), int)]
    rows = {}

    found = rows["stacks-deleted"] = answer(database, "stacks-deleted.sql")
    wanted = [event for event in timed if event["day"] >= since(30) and kind_of(event) == "stack-deleted"]
    told = lambda event: {"time": event["time"], "org_id": "acme", "login": login(event), "token": event.get("tokenName"), "address": event["sourceIP"], "description": event["description"]}
    compare("stacks-deleted", found, [told(event) for event in wanted], "time")
    assert any(event["event"] == "Stack Deleted" for event in wanted) and any(event["event"] == "stack-deleted" for event in wanted)

    found = rows["failed-logins"] = answer(database, "failed-logins.sql")
    groups = collections.defaultdict(list)
    for event in timed:
        if event["day"] >= since(7) and (event.get("authFailure") or kind_of(event) in ("user-login-failed", "environment-unauthorized-open")):
            groups[event["sourceIP"]].append(event)
    wanted = [
        {"address": address, "failures": len(events), "logins": len(set(map(login, events))), "first_time": min(event["time"] for event in events), "last_time": max(event["time"] for event in events)}
        for address, events in groups.items()
    ]
    compare("failed-logins", found, wanted, "failures")

    found = rows["token-use"] = answer(database, "token-use.sql")
    groups = collections.defaultdict(list)
    for event in timed:
        if event["day"] >= since(30) and event.get("tokenID"):
            groups[event["day"], event["tokenID"]].append(event)
    wanted = [
        {"day": day, "org_id": "acme", "token_id": token, "token": max(event["tokenName"] for event in events), "events": len(events), "addresses": len({event["sourceIP"] for event in events})}
        for (day, token), events in groups.items()
    ]
    compare("token-use", found, wanted, "day")
    assert len({row["day"] for row in found}) > 1, "days are told apart"

    found = rows["members-and-roles"] = answer(database, "members-and-roles.sql")
    changes = lambda event: kind_of(event) in ("member-added", "member-removed", "member-role-changed") or kind_of(event).startswith(("team-", "custom-role-", "organization-token-"))
    told = lambda event: {"time": event["time"], "org_id": "acme", "what": event["event"], "login": login(event), "address": event["sourceIP"], "description": event["description"]}
    compare("members-and-roles", found, [told(event) for event in timed if event["day"] >= since(90) and changes(event)], "time")

    found = rows["story"] = answer(database, "story.sql")
    assert len({row.pop("key") for row in found}) == len(found), "each event has its own key"
    untimed = [event | {"time": None} for event in texts if not isinstance(event.get("timestamp"), int)]
    tells = lambda event: login(event) == "ada" or "shop/prod" in event["description"]
    told = lambda event: {"time": event["time"], "org_id": "acme", "what": event["event"], "login": login(event), "token": event.get("tokenName"), "address": event["sourceIP"], "description": event["description"]}
    wanted = [told(event) for event in timed if event["day"] >= since(30) and tells(event)] + [told(event) for event in untimed if tells(event)]
    compare("story", found, wanted, "time")
    assert found[-1]["time"] is None, "events without a time come last"

    found = rows["counts"] = answer(database, "counts.sql")
    assert found and all(row["claimed_events"] == row["events"] == row["distinct_keys"] for row in found), found
    assert sum(row["events"] for row in found) == sum(1 for event in timed if event["day"] >= since(30)) + len(untimed) + truth.count(None)
    # The query is there to find what is missing: without one object, and without all objects of a day, those days differ, and no other.
    short, gone = max(row["day"] for row in found), min(row["day"] for row in found)
    database.execute("DELETE FROM pulumi_audit WHERE day = ? AND chunk = (SELECT max(chunk) FROM pulumi_audit WHERE day = ?)", [short, short])
    database.execute("DELETE FROM pulumi_audit WHERE day = ?", [gone])
    differing = [row["day"] for row in answer(database, "counts.sql") if row["claimed_events"] != row["events"]]
    assert differing == [short, gone], differing
    print(json.dumps({name: len(answered) for name, answered in rows.items()} | {"lines": lines}))


main()
