//! What the console answers: rows of typed cells, in PgBouncer's types, as text or in PostgreSQL's binary formats.
//!
//! PgBouncer knows five types (`pktbuf.c`) and sends everything as text; drivers that bind results in binary get those too.

use bytes::BytesMut;
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};

use super::seat::Room;
use crate::protocol::frame::{HEADER_LEN, Scan, scan_header};

/// A column's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `text`
    Text,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `numeric`, for counters: drivers do not overflow on it.
    Numeric,
    /// `bytea`
    Bytea,
}

impl Kind {
    /// `pg_type.oid`.
    const fn oid(self) -> u32 {
        match self {
            Self::Bytea => 17,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Numeric => 1700,
        }
    }

    /// `pg_type.typlen`.
    const fn len(self) -> i16 {
        match self {
            Self::Int8 => 8,
            Self::Int4 => 4,
            Self::Text | Self::Numeric | Self::Bytea => -1,
        }
    }
}

/// A column: its name and type.
pub type Column = (&'static str, Kind);

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// NULL.
    Null,
    /// Of text.
    Text(String),
    /// Of any of the number types; one that its column cannot hold is as near as it can be.
    Number(i64),
}

/// A line.
pub type Row = Vec<Cell>;

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i32> for Cell {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Cell {
    /// As PgBouncer has its flags.
    fn from(flag: bool) -> Self {
        Self::Number(flag.into())
    }
}

/// A result.
#[derive(Clone, Debug)]
pub struct Table {
    /// What its lines are made of.
    pub columns: &'static [Column],
    /// They.
    pub rows: Vec<Row>,
}

/// A result as it is sent: one message per line. Far smaller than the lines themselves, and it may wait long for a reader.
#[derive(Debug)]
pub struct Encoded {
    /// What its lines are made of.
    pub columns: &'static [Column],
    lines: BytesMut,
    /// What a large one takes of the room that all consoles share.
    pub room: Option<Room>,
}

impl Encoded {
    /// Of this result, in these formats.
    #[must_use]
    pub fn of(table: Table, formats: &Formats) -> Self {
        let mut lines = BytesMut::new();
        for row in table.rows {
            // what cannot be encoded is too long for any client; there is none of it here
            let _ = PgWireBackendMessage::DataRow(data_row(table.columns, &row, formats)).encode(&mut lines);
        }
        Self { columns: table.columns, lines, room: None }
    }

    /// How large it is, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether no line is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the first lines, so many at most.
    #[must_use]
    pub fn take(&mut self, max: usize) -> BytesMut {
        let mut end = 0;
        for _ in 0..max {
            let rest = self.lines.get(end..).unwrap_or_default();
            let Ok(Scan::Header { body_len, .. }) = scan_header(rest) else { break };
            end += HEADER_LEN + usize::try_from(body_len).unwrap_or_default();
        }
        self.lines.split_to(end.min(self.lines.len()))
    }
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    /// Rows.
    Rows(Encoded),
    /// A tag, perhaps with a notice before it.
    Tag {
        /// As in CommandComplete.
        tag: String,
        /// The notice.
        notice: Option<String>,
        /// The notice's detail.
        detail: Option<&'static str>,
    },
}

/// In which format a client wants a result's columns, as its Bind says.
#[derive(Clone, Debug, Default)]
pub struct Formats(Vec<i16>);

impl Formats {
    /// As Bind says it; `None` where that fits no result of so many columns.
    #[must_use]
    pub fn of(codes: &[i16], columns: usize) -> Option<Self> {
        let known = codes.iter().all(|code| matches!(code, 0 | 1));
        (known && (codes.len() < 2 || codes.len() == columns)).then(|| Self(codes.to_vec()))
    }

    fn is_binary(&self, column: usize) -> bool {
        let code = if self.0.len() == 1 { self.0.first() } else { self.0.get(column) };
        code == Some(&1)
    }
}

/// The head of a result.
#[must_use]
pub fn description(columns: &[Column], formats: &Formats) -> RowDescription {
    let field = |(at, (name, kind)): (usize, &Column)| {
        let format = i16::from(formats.is_binary(at));
        FieldDescription::new((*name).to_owned(), 0, 0, kind.oid(), kind.len(), -1, format)
    };
    RowDescription::new(columns.iter().enumerate().map(field).collect())
}

/// A line of a result.
#[must_use]
pub fn data_row(columns: &[Column], row: &[Cell], formats: &Formats) -> DataRow {
    let mut body = Vec::new();
    for (at, ((_, kind), cell)) in columns.iter().zip(row).enumerate() {
        let start = body.len();
        body.extend((-1_i32).to_be_bytes());
        let is_null = *cell == Cell::Null;
        if formats.is_binary(at) {
            binary(&mut body, *kind, cell)
        } else {
            text(&mut body, *kind, cell)
        }
        let len = i32::try_from(body.len() - start - 4).unwrap_or(i32::MAX);
        if let Some(head) = body.get_mut(start..start + 4).filter(|_| !is_null) {
            head.copy_from_slice(&len.to_be_bytes());
        }
    }
    let count = i16::try_from(columns.len().min(row.len())).unwrap_or(i16::MAX);
    DataRow::new(body.as_slice().into(), count)
}

fn narrowed(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX })
}

fn text(body: &mut Vec<u8>, kind: Kind, cell: &Cell) {
    match cell {
        Cell::Null => {}
        // a zero byte ends a text for the drivers in C
        Cell::Text(text) => body.extend(text.bytes().map(|byte| if byte == 0 { b'?' } else { byte })),
        Cell::Number(number) if kind == Kind::Int4 => body.extend(narrowed(*number).to_string().bytes()),
        Cell::Number(number) => body.extend(number.to_string().bytes()),
    }
}

fn binary(body: &mut Vec<u8>, kind: Kind, cell: &Cell) {
    match (kind, cell) {
        (Kind::Int4, Cell::Number(number)) => body.extend(narrowed(*number).to_be_bytes()),
        (Kind::Int8, Cell::Number(number)) => body.extend(number.to_be_bytes()),
        (Kind::Numeric, Cell::Number(number)) => numeric(body, *number),
        (_, cell) => text(body, kind, cell),
    }
}

/// `numeric_send()`: digits to base 10,000, the most significant first.
fn numeric(body: &mut Vec<u8>, number: i64) {
    let mut digits = Vec::new();
    let mut rest = number.unsigned_abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % 10_000).unwrap_or_default());
        rest /= 10_000;
    }
    let count = u16::try_from(digits.len()).unwrap_or_default();
    let weight = count.saturating_sub(1);
    let sign: u16 = if number < 0 { 0x4000 } else { 0 };
    for field in [count, weight, sign, 0].into_iter().chain(digits.into_iter().rev()) {
        body.extend(field.to_be_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_binary_are_postgresqls() {
        let mut body = Vec::new();
        numeric(&mut body, 123_456_789);
        assert_eq!(body, [0, 3, 0, 2, 0, 0, 0, 0, 0, 1, 0x09, 0x29, 0x1a, 0x85]);
        body.clear();
        numeric(&mut body, 0);
        assert_eq!(body, [0, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn formats_must_fit_the_columns() {
        assert!(Formats::of(&[0, 1], 3).is_none() && Formats::of(&[2], 3).is_none());
        let formats = Formats::of(&[1], 3).unwrap();
        assert!(formats.is_binary(2));
        assert!(!Formats::of(&[], 3).unwrap().is_binary(0));
    }
}
