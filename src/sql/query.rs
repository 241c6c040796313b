//! A statement that may be a query: whether its words allow it, and what it names and calls.
//!
//! Works on the tokens of a fingerprint. Every name in front of a parenthesis is a call unless its place says otherwise;
//! places err on the side of calls, and where a place merely forgives an unknown name ([`Names::maybe`]), a name that is
//! known to write is not forgiven.
//!
//! Not here: what the names mean ([`super::knowledge`], [`super::built_ins`]).

use super::built_ins;
use super::class::Reason;
use super::keywords::Keyword;
use super::lexer::Token;

/// A name, folded as PostgreSQL folds it.
pub type Name = Box<[u8]>;

/// The names in a query, each once.
#[derive(Debug, Default)]
pub struct Names {
    /// Of functions that are called.
    pub calls: Vec<Name>,
    /// Names that may be called and are most likely of something else: an alias with its columns, a type with its length, a
    /// field of a value.
    pub maybe: Vec<Name>,
    /// All others: tables, columns, types, aliases, schemas.
    pub others: Vec<Name>,
}

impl Names {
    /// Leaves each name once.
    pub fn settle(&mut self) {
        for names in [&mut self.calls, &mut self.maybe, &mut self.others] {
            names.sort_unstable();
            names.dedup();
            names.shrink_to_fit();
        }
    }

    /// Adds those of `other`, which may be there already.
    pub fn join(&mut self, other: Self) {
        self.calls.extend(other.calls);
        self.maybe.extend(other.maybe);
        self.others.extend(other.others);
    }
}

/// Identifiers end here (`NAMEDATALEN - 1`): PostgreSQL cuts longer ones, which may make two names one.
const NAME_MAX: usize = 63;

/// Reads the tokens of one statement.
///
/// # Errors
/// Why it is none that may run on a standby, as far as its words tell.
pub fn read(tokens: &[Token<'_>]) -> Result<Names, Reason> {
    let mut reader = Reader { tokens, closes: closes(tokens)?, names: Names::default(), of_a_value: false };
    for at in 0..tokens.len() {
        reader.token(at)?;
    }
    reader.names.settle();
    Ok(reader.names)
}

/// Which parenthesis ends the one at each place.
fn closes(tokens: &[Token<'_>]) -> Result<Vec<Close>, Reason> {
    let mut closes = vec![Close::NONE; tokens.len()];
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Symbol(b'(') => open.push(at),
            Token::Symbol(b')') => {
                let from = open.pop().ok_or(Reason::NotUnderstood)?;
                if let Some(close) = closes.get_mut(from) {
                    *close = Close { at };
                }
                if let Some(close) = closes.get_mut(at) {
                    *close = Close { at: from };
                }
            }
            _ => {}
        }
    }
    if open.is_empty() { Ok(closes) } else { Err(Reason::NotUnderstood) }
}

/// The other one of two parentheses.
#[derive(Clone, Copy)]
struct Close {
    at: usize,
}

impl Close {
    const NONE: Self = Self { at: usize::MAX };
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    closes: Vec<Close>,
    names: Names,
    /// The last name is a field of a value.
    of_a_value: bool,
}

impl<'a> Reader<'a> {
    fn get(&self, at: usize) -> Option<Token<'a>> {
        self.tokens.get(at).copied()
    }

    fn before(&self, at: usize) -> Option<Token<'a>> {
        at.checked_sub(1).and_then(|at| self.get(at))
    }

    fn is_word(&self, at: Option<usize>, word: &str) -> bool {
        at.and_then(|at| self.get(at)).is_some_and(|token| token.is_word(word))
    }

    fn other_end(&self, at: usize) -> Option<usize> {
        self.closes.get(at).map(|close| close.at).filter(|at| *at != usize::MAX)
    }

    fn token(&mut self, at: usize) -> Result<(), Reason> {
        if self.get(at).is_some_and(|token| token.identifier().is_some()) {
            self.follow(at);
        }
        match self.get(at) {
            Some(Token::Word(word)) => self.word(at, word),
            Some(Token::Quoted(name)) => {
                let name = unquoted(name);
                self.name(at, name, None)
            }
            Some(Token::Symbol(symbol)) => match symbol {
                b'\\' | b'{' | b'}' | b'$' | 0x7f => Err(Reason::NotUnderstood),
                _ => Ok(()),
            },
            // one literal, if a line ends between them
            Some(Token::Text { .. }) if matches!(self.before(at), Some(Token::Text { .. })) => Err(Reason::Ambiguous),
            Some(_) | None => Ok(()),
        }
    }

    /// A word without quotes, in lower case.
    fn word(&mut self, at: usize, word: &[u8]) -> Result<(), Reason> {
        let dotted = self.before(at) == Some(Token::Symbol(b'.'));
        let keyword = if dotted { None } else { Keyword::of(word) };
        match word {
            b"into" if !dotted => return Err(Reason::SelectInto),
            b"insert" | b"delete" | b"merge" if !dotted => return Err(Reason::HiddenWrite),
            b"update" if !dotted => {
                let before = at.checked_sub(1);
                let locks = self.is_word(before, "for") || self.is_word(before, "key");
                return Err(if locks { Reason::RowLock } else { Reason::HiddenWrite });
            }
            b"share" if !dotted => {
                let before = at.checked_sub(1);
                if self.is_word(before, "for") || self.is_word(before, "key") {
                    return Err(Reason::RowLock);
                }
            }
            // TREAT(x AS y) calls a function called y
            b"treat" if !dotted => return Err(Reason::Ambiguous),
            _ => {}
        }
        match keyword {
            Some(Keyword::Reserved) => Ok(()),
            Some(Keyword::Column) if self.calls(at) => Ok(()),
            keyword => self.name(at, word.into(), keyword),
        }
    }

    /// Whether a parenthesis follows.
    fn calls(&self, at: usize) -> bool {
        self.get(at + 1) == Some(Token::Symbol(b'('))
    }

    fn name(&mut self, at: usize, name: Name, keyword: Option<Keyword>) -> Result<(), Reason> {
        if name.len() > NAME_MAX {
            return Err(Reason::Ambiguous);
        }
        let calls = self.calls(at);
        let dotted = self.before(at) == Some(Token::Symbol(b'.'));
        // x.f may be f(x)
        if (calls || dotted)
            && let Some(reason) = built_ins::function(&name)
        {
            return Err(reason);
        }
        if !calls {
            if built_ins::tells_of_node(&name) {
                return Err(Reason::TellsOfNode);
            }
            let names = if self.of_a_value { &mut self.names.maybe } else { &mut self.names.others };
            names.push(name);
        } else if keyword == Some(Keyword::Function)
            || keyword.is_some() && is_syntax(&name)
            || self.is_no_call(at, keyword.is_some())
        {
            self.names.maybe.push(name);
        } else {
            self.names.calls.push(name);
        }
        Ok(())
    }

    /// Notes whether a name is a field of a value, `(x).name`, `x[1].a.name`, `$1.name`: a function of that name is called
    /// if there is no such field, of whatever type the value is.
    fn follow(&mut self, at: usize) {
        let dotted = self.before(at) == Some(Token::Symbol(b'.'));
        let behind_name = at.checked_sub(2).and_then(|at| self.get(at)).is_some_and(|head| head.identifier().is_some());
        self.of_a_value = dotted && (!behind_name || self.of_a_value);
    }

    /// Whether the place of a name in front of a parenthesis says that it is not called.
    fn is_no_call(&self, at: usize, keyword: bool) -> bool {
        let mut first = at;
        while self.before(first) == Some(Token::Symbol(b'.')) && first >= 2 {
            first -= 2;
        }
        let Some(before) = self.before(first) else { return false };
        match before {
            // a type: x::name(1)
            Token::Symbol(b':') => first.checked_sub(2).and_then(|at| self.get(at)) == Some(Token::Symbol(b':')),
            // x AS name(…): an alias with columns, a type
            _ if before.is_word("as") => true,
            // WITH name(…) AS (SELECT …
            _ if before.is_word("with") || before.is_word("recursive") || before == Token::Symbol(b',') => {
                first == at && self.is_cte(at)
            }
            // what stands behind an argument list: over (…), filter (…), an alias
            Token::Symbol(b')') => first == at && self.ends_operand(first - 1),
            // t name(…): an alias
            Token::Quoted(_) => first == at && !keyword,
            Token::Word(word) => first == at && !keyword && Keyword::of(word).is_none(),
            _ => false,
        }
    }

    /// Whether `name(a, b) AS [NOT MATERIALIZED] (SELECT …` stands at `at`; `f(x) AS (a int)` is a call.
    fn is_cte(&self, at: usize) -> bool {
        let Some(close) = self.other_end(at + 1) else { return false };
        if !self.is_word(Some(close + 1), "as") {
            return false;
        }
        let mut next = close + 2;
        if self.is_word(Some(next), "not") {
            next += 1;
        }
        if self.is_word(Some(next), "materialized") {
            next += 1;
        }
        self.get(next) == Some(Token::Symbol(b'('))
            && self.get(next + 1).is_some_and(|token| {
                let query = ["select", "with", "table"].iter().any(|word| token.is_word(word));
                query || token == Token::Symbol(b'(') || token.is_word("values") && self.calls(next + 1)
            })
    }

    /// Whether the parenthesis that closes at `at` ends an operand, so that no expression can begin behind it: not that
    /// of `DISTINCT ON (…)` and `OPERATOR(…)`.
    fn ends_operand(&self, at: usize) -> bool {
        let Some(open) = self.other_end(at) else { return false };
        let before = open.checked_sub(1);
        !(self.is_word(before, "on") || self.is_word(before, "operator"))
    }
}

/// Whether a keyword that can be the name of anything mostly is no name in front of a parenthesis: `ORDER BY (a)`,
/// `AT TIME ZONE (a)`, `FETCH FIRST (a) ROWS ONLY`.
fn is_syntax(word: &[u8]) -> bool {
    matches!(
        word,
        b"by"
            | b"columns"
            | b"cube"
            | b"escape"
            | b"first"
            | b"groups"
            | b"materialized"
            | b"next"
            | b"operator"
            | b"passing"
            | b"range"
            | b"rollup"
            | b"rows"
            | b"second"
            | b"sets"
            | b"varying"
            | b"zone"
    )
}

/// An identifier without what its quotes needed.
fn unquoted(name: &[u8]) -> Name {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        out.push(*byte);
        if *byte == b'"' {
            bytes.next();
        }
    }
    out.into()
}
