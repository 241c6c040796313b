#!/usr/bin/env python3
"""What PostgreSQL's own grammar (libpg_query, through pglast) says of statements: README.md.

Reads lines of JSON, [name, checksum, [statement, ...]], and writes a line for each: name, checksum and a letter per
statement: r it only reads, w it does not, x it is none.
"""

import json
import sys

from pglast.parser import ParseError, parse_sql_json

# wherever in a tree: what is changed, what is locked, what a table is made of
WRITES = {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "intoClause", "lockingClause"}


def writes(tree):
    rest = [tree]
    while rest:
        node = rest.pop()
        if isinstance(node, dict):
            if WRITES & node.keys():
                return True
            rest.extend(node.values())
        elif isinstance(node, list):
            rest.extend(node)
    return False


def reads(statement):
    kind, body = next(iter(statement.items()))
    if kind == "SelectStmt":
        return not writes(body)
    if kind == "ExplainStmt":
        options = [option["DefElem"]["defname"] for option in body.get("options", [])]
        return "analyze" not in options and reads(body["query"])
    if kind == "CopyStmt":
        if body.get("is_from") or body.get("is_program") or body.get("filename"):
            return False
        return "query" not in body or reads(body["query"])
    return False


def verdict(sql):
    try:
        statements = json.loads(parse_sql_json(sql)).get("stmts", [])
    except (ParseError, ValueError):
        return "x"
    return "r" if all(reads(one["stmt"]) for one in statements) else "w"


print("# Written by tests/oracle: what PostgreSQL's grammar says of each statement of a text.")
for line in sys.stdin:
    name, checksum, statements = json.loads(line)
    print(name, checksum, "".join(map(verdict, statements)))
