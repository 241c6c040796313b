//! What one statement is by its words: which kind, and where in it a query stands that may read.
//!
//! Works on the tokens of a fingerprint. Not here: what the words of a query allow ([`super::query`]).

use std::borrow::Cow;

use super::begin::Modes;
use super::class::{Class, Reason, Verdict};
use super::fingerprint::moves_its_end;
use super::lexer::{Lexer, Token};
use super::query::{self, Names};
use super::second_opinion::Opinion;

/// One statement: its tokens, none of which is a semicolon, and where each begins in its text.
pub struct Statement<'a> {
    text: &'a str,
    tokens: Vec<Token<'a>>,
    starts: Vec<usize>,
}

/// The statements of a fingerprint; empty ones are none.
///
/// # Errors
/// Why the text is not taken for SQL that PostgreSQL would read in one way.
pub fn statements(text: &[u8]) -> Result<Vec<Statement<'_>>, Reason> {
    let sql = std::str::from_utf8(text).map_err(|_| Reason::NotText)?;
    let mut lexer = Lexer::new(text);
    let mut list = Vec::new();
    let mut one = Statement { text: sql, tokens: Vec::new(), starts: Vec::new() };
    loop {
        let start = text.len() - lexer.rest().len();
        let Some(token) = lexer.next() else { break };
        match token {
            Token::Symbol(b';') => {
                let text = sql.get(..start).unwrap_or_default();
                let next = Statement { text: sql, tokens: Vec::new(), starts: Vec::new() };
                list.push(Statement { text, ..std::mem::replace(&mut one, next) });
                continue;
            }
            Token::Symbol(0..=0x1f) => return Err(Reason::NotText),
            Token::Disguised => return Err(Reason::Ambiguous),
            Token::Number(number) if !matches!(number, b"0" | b"0.0") => return Err(Reason::Ambiguous),
            Token::Text { .. } if moves_its_end(token) => return Err(Reason::Ambiguous),
            _ => {}
        }
        one.tokens.push(token);
        one.starts.push(start);
    }
    if !lexer.is_whole() {
        return Err(Reason::NotText);
    }
    list.push(one);
    list.retain(|statement| !statement.tokens.is_empty());
    Ok(list)
}

impl<'a> Statement<'a> {
    fn token(&self, at: usize) -> Option<Token<'a>> {
        self.tokens.get(at).copied()
    }

    fn is_word(&self, at: usize, word: &str) -> bool {
        self.token(at).is_some_and(|token| token.is_word(word))
    }

    /// What it says of the block that it begins, if it does.
    #[must_use]
    pub fn modes(&self) -> Modes {
        if self.is_word(0, "begin") || self.is_word(0, "start") && self.is_word(1, "transaction") {
            Modes::of(self.tokens.iter().copied())
        } else {
            Modes::default()
        }
    }

    /// The names on which it depends whether it reads.
    ///
    /// # Errors
    /// What it is, whatever its names mean.
    pub fn said(&self) -> Result<Names, Verdict> {
        let Some(Token::Word(first)) = self.tokens.iter().copied().find(|token| !matches!(token, Token::Symbol(b'(')))
        else {
            return Err(Verdict::unknown(Reason::UnknownStatement));
        };
        match first {
            b"select" | b"with" | b"values" => self.query(0, self.tokens.len()),
            _ if self.token(0) == Some(Token::Symbol(b'(')) => Err(Verdict::unknown(Reason::UnknownStatement)),
            b"table" => self.table(),
            b"explain" => self.explain(),
            b"copy" => self.copy(),
            _ => Err(self.verb(first)),
        }
    }

    /// The query from one token up to another.
    fn query(&self, from: usize, to: usize) -> Result<Names, Verdict> {
        let tokens = self.tokens.get(from..to).unwrap_or_default();
        let names = query::read(tokens).map_err(|reason| match reason {
            Reason::NotUnderstood | Reason::Ambiguous => Verdict::unknown(reason),
            _ => Verdict::write(reason),
        })?;
        let start = self.starts.get(from).copied().unwrap_or_default();
        let end = self.starts.get(to).copied().unwrap_or(self.text.len());
        match Opinion::of(&self.for_second_opinion(start, end)) {
            Opinion::Reads => Ok(names),
            Opinion::Locks => Err(Verdict::write(Reason::RowLock)),
            Opinion::Into => Err(Verdict::write(Reason::SelectInto)),
            Opinion::Writes => Err(Verdict::write(Reason::HiddenWrite)),
            Opinion::Silent => Err(Verdict::unknown(Reason::NotUnderstood)),
        }
    }

    /// The text from `start` to `end` without `VARIADIC` in front of arguments, which the second grammar does not know.
    fn for_second_opinion(&self, start: usize, end: usize) -> Cow<'a, str> {
        const VARIADIC: &str = "variadic";
        let mut text = Cow::Borrowed(self.text.get(start..end).unwrap_or_default());
        let places = self.tokens.iter().zip(&self.starts).enumerate().filter(|(_, (token, _))| token.is_word(VARIADIC));
        for (at, (_, place)) in places {
            let before = at.checked_sub(1).and_then(|at| self.token(at));
            let rest = self.text.get(*place..end).unwrap_or_default();
            let from = place.checked_sub(start).map(|from| from + rest.len() - rest.trim_start().len());
            if let (Some(Token::Symbol(b'(' | b',')), Some(from)) = (before, from) {
                text.to_mut().replace_range(from..from + VARIADIC.len(), "        ");
            }
        }
        text
    }

    /// `TABLE [ONLY] name [*]`, which the second grammar does not know.
    fn table(&self) -> Result<Names, Verdict> {
        let from = if self.is_word(1, "only") { 2 } else { 1 };
        let end = self.after_name(from);
        let rest = self.tokens.get(end..).unwrap_or_default();
        if end > from && matches!(rest, [] | [Token::Symbol(b'*')]) {
            return query::read(self.tokens.get(from..end).unwrap_or_default()).map_err(Verdict::write);
        }
        Err(Verdict::unknown(Reason::NotUnderstood))
    }

    /// The place behind a name, qualified or not, that begins at `at`; `at` itself when none does.
    fn after_name(&self, at: usize) -> usize {
        let is_name = |at| self.token(at).is_some_and(|token: Token<'_>| token.identifier().is_some());
        if !is_name(at) {
            return at;
        }
        let mut end = at + 1;
        while self.token(end) == Some(Token::Symbol(b'.')) && is_name(end + 1) {
            end += 2;
        }
        end
    }

    /// The place behind the parenthesis that ends the one at `at`.
    fn after_parenthesis(&self, at: usize) -> usize {
        let mut depth = 0_usize;
        for (place, token) in self.tokens.iter().enumerate().skip(at) {
            match token {
                Token::Symbol(b'(') => depth += 1,
                Token::Symbol(b')') if depth <= 1 => return place + 1,
                Token::Symbol(b')') => depth -= 1,
                _ => {}
            }
        }
        self.tokens.len()
    }

    /// `EXPLAIN [ANALYZE] [VERBOSE] …`, `EXPLAIN (option, …) …`: without the word `ANALYZE` it runs nothing.
    fn explain(&self) -> Result<Names, Verdict> {
        // the name of an option may stand in quotes
        let runs = |token: &Token<'_>| {
            token.is_word("analyze") || token.is_word("analyse") || *token == Token::Quoted(b"analyze")
        };
        if self.tokens.iter().any(runs) {
            return Err(Verdict::write(Reason::ExplainAnalyze));
        }
        let begins_query = |at| {
            let word = self.tokens.iter().skip(at).find(|token| **token != Token::Symbol(b'('));
            word.is_some_and(|word| ["select", "with", "values"].iter().any(|query| word.is_word(query)))
        };
        let at = match self.token(1) {
            Some(Token::Symbol(b'(')) if !begins_query(1) => self.after_parenthesis(1),
            Some(token) if token.is_word("verbose") => 2,
            _ => 1,
        };
        if begins_query(at) {
            return self.query(at, self.tokens.len());
        }
        match self.token(at) {
            Some(Token::Word(word)) => {
                let verdict = self.verb(word);
                let kept = matches!(verdict.class, Class::Write | Class::Unknown);
                Err(if kept { verdict } else { Verdict::unknown(Reason::UnknownStatement) })
            }
            _ => Err(Verdict::unknown(Reason::UnknownStatement)),
        }
    }

    /// `COPY (query) TO STDOUT …`, `COPY name [(column, …)] TO STDOUT …`; every other `COPY` writes.
    fn copy(&self) -> Result<Names, Verdict> {
        let writes = Err(Verdict::write(Reason::Copy));
        let query = self.token(1) == Some(Token::Symbol(b'('));
        let mut end = if query { self.after_parenthesis(1) } else { self.after_name(1) };
        if end <= 1 {
            return writes;
        }
        let source = 1..end;
        if !query && self.token(end) == Some(Token::Symbol(b'(')) {
            end = self.after_parenthesis(end);
        }
        if !self.is_word(end, "to") || !self.is_word(end + 1, "stdout") {
            return writes;
        }
        if self.tokens.iter().skip(end).any(|token| token.is_word("program") || token.is_word("from")) {
            return writes;
        }
        if query {
            return self.query(source.start, source.end).map_err(|verdict| match verdict.class {
                Class::Write => Verdict::write(verdict.reason),
                _ => verdict,
            });
        }
        query::read(self.tokens.get(source).unwrap_or_default()).map_err(Verdict::write)
    }

    /// What the first word says of a statement that is no query.
    fn verb(&self, first: &[u8]) -> Verdict {
        let session = |reason| Verdict::new(Class::SessionState, reason);
        let next_is = |word| self.is_word(1, word);
        let transaction = |at| self.is_word(at, "transaction") || self.is_word(at, "constraints");
        match first {
            b"begin" => self.modes().verdict(),
            b"start" if next_is("transaction") => self.modes().verdict(),
            b"commit" | b"rollback" if next_is("prepared") => Verdict::write(Reason::TwoPhase),
            b"prepare" if next_is("transaction") => Verdict::write(Reason::TwoPhase),
            b"rollback" if self.goes_back() => session(Reason::Savepoint),
            b"commit" | b"end" | b"rollback" | b"abort" => Verdict::new(Class::End, Reason::End),
            b"savepoint" | b"release" => session(Reason::Savepoint),
            b"set" if transaction(1) || self.is_word(1, "local") && transaction(2) => session(Reason::SetTransaction),
            b"set" | b"reset" => session(Reason::Set),
            b"discard" => session(Reason::Discard),
            b"prepare" | b"deallocate" => session(Reason::Prepare),
            b"load" => session(Reason::Load),
            b"execute" => Verdict::write(Reason::Execute),
            b"declare" | b"fetch" | b"move" | b"close" => Verdict::write(Reason::Cursor),
            b"listen" | b"unlisten" => Verdict::write(Reason::Listen),
            b"notify" => Verdict::write(Reason::Notify),
            b"lock" => Verdict::write(Reason::LockTable),
            b"call" => Verdict::write(Reason::Call),
            b"do" => Verdict::write(Reason::Do),
            b"show" => Verdict::write(Reason::Show),
            b"copy" => Verdict::write(Reason::Copy),
            b"insert" | b"update" | b"delete" | b"merge" | b"truncate" => Verdict::write(Reason::ChangesData),
            b"create" | b"alter" | b"drop" | b"grant" | b"revoke" | b"comment" | b"security" | b"import"
            | b"reassign" => Verdict::write(Reason::Definition),
            b"vacuum" | b"analyze" | b"analyse" | b"cluster" | b"reindex" | b"refresh" | b"checkpoint" | b"repack" => {
                Verdict::write(Reason::Maintenance)
            }
            _ => Verdict::unknown(Reason::UnknownStatement),
        }
    }

    /// `ROLLBACK [WORK | TRANSACTION] TO`.
    fn goes_back(&self) -> bool {
        let at = if self.is_word(1, "work") || self.is_word(1, "transaction") { 2 } else { 1 };
        self.is_word(at, "to")
    }
}
