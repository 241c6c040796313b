//! A second grammar, written by others, that must take a statement for a query too before it counts as one.
//!
//! `sqlparser` is kept at arm's length: it parses canonical text of bounded length ([`super::analysis`]) on its default
//! recursion limit, behind `catch_unwind`; its trees are walked without recursion and never printed, copied or compared:
//! they are as deep as a chain of operators is long, and only dropping them is bounded by the text's length.
//!
//! Not here: functions and names; its tokens are not PostgreSQL's in every corner.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{Query, SetExpr, Statement, TableFactor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

/// What the second grammar makes of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// One query that only reads.
    Reads,
    /// A query that locks rows.
    Locks,
    /// A query that makes a table.
    Into,
    /// Something else than a query, or a query with such a part.
    Writes,
    /// It cannot be parsed.
    Silent,
}

impl Opinion {
    /// The opinion of `sql`, which should be one statement.
    #[must_use]
    pub fn of(sql: &str) -> Self {
        let parsed = catch_unwind(AssertUnwindSafe(|| Parser::parse_sql(&PostgreSqlDialect {}, sql)));
        let Ok(Ok(statements)) = parsed else { return Self::Silent };
        match statements.as_slice() {
            [Statement::Query(query)] => of_query(query),
            _ => Self::Writes,
        }
    }
}

/// What is still to be looked at.
enum Part<'a> {
    Query(&'a Query),
    Body(&'a SetExpr),
}

fn of_query(query: &Query) -> Opinion {
    let mut parts = vec![Part::Query(query)];
    while let Some(part) = parts.pop() {
        let body = match part {
            Part::Query(query) => {
                if !query.locks.is_empty() {
                    return Opinion::Locks;
                }
                // clauses of other databases: PostgreSQL means something else by them, or nothing
                let foreign = query.for_clause.is_some()
                    || query.settings.is_some()
                    || query.format_clause.is_some()
                    || !query.pipe_operators.is_empty();
                if foreign {
                    return Opinion::Silent;
                }
                let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
                parts.extend(ctes.map(|cte| Part::Query(&cte.query)));
                &query.body
            }
            Part::Body(body) => body,
        };
        match body {
            SetExpr::Select(select) => {
                if select.into.is_some() {
                    return Opinion::Into;
                }
                let tables = select.from.iter().flat_map(|from| {
                    std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation))
                });
                for table in tables {
                    if let TableFactor::Derived { subquery, .. } = table {
                        parts.push(Part::Query(subquery));
                    }
                }
            }
            SetExpr::Query(query) => parts.push(Part::Query(query)),
            SetExpr::SetOperation { left, right, .. } => parts.extend([Part::Body(left), Part::Body(right)]),
            SetExpr::Values(_) | SetExpr::Table(_) => {}
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return Opinion::Writes;
            }
        }
    }
    Opinion::Reads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_reads_unless_a_part_of_it_does_not() {
        for (sql, opinion) in [
            ("select 1", Opinion::Reads),
            ("with a as (select 1) select * from a union select 2", Opinion::Reads),
            ("values (1), (2)", Opinion::Reads),
            ("select 1 from t for update", Opinion::Locks),
            ("select * from (select 1 from t for share) x", Opinion::Locks),
            ("(select 1 from t for update) union select 2", Opinion::Locks),
            ("select 1 into t", Opinion::Into),
            ("with a as (delete from t returning 1) select * from a", Opinion::Writes),
            ("with b as (select 1), a as (insert into t values (1) returning 1) select * from b", Opinion::Writes),
            ("delete from t", Opinion::Writes),
            ("select 1; select 2", Opinion::Writes),
            ("explain select 1", Opinion::Writes),
            ("selec 1", Opinion::Silent),
            ("", Opinion::Writes),
        ] {
            assert_eq!(Opinion::of(sql), opinion, "{sql}");
        }
    }
}
