//! Compares a file with the schema: unknown keys, missing keys, wrong types, wrong values. All of them in one go, which
//! serde, stopping at the first, cannot.

use std::fmt::Display;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::{Address, HttpAddress, NodeHost};
use super::agents::AgentAddress;
use super::document::{At, Document, Step, key_name};
use super::duration::{ConfigDuration, Period};
use super::listener::SocketMode;
use super::problem::Problem;
use super::schema::{self, Key, Leaf, Shape, Table};
use super::size::ByteSize;
use super::suggest::nearest;

/// Everything in the file that the structs would not take.
pub(super) fn check(document: &Document<'_>, root: &Table) -> Vec<Problem> {
    let mut walk = Walk { document, root, path: Vec::new(), problems: Vec::new() };
    walk.table(root, document.tree());
    walk.problems
}

struct Walk<'d, 't> {
    document: &'d Document<'t>,
    /// Every key there is.
    root: &'d Table,
    path: Vec<Step<'d>>,
    problems: Vec<Problem>,
}

impl<'d> Walk<'d, '_> {
    fn report(&mut self, at: At, message: impl Into<String>, advice: &str) {
        self.problems.push(self.document.problem(&self.path, at, message, advice));
    }

    fn table(&mut self, known: &Table, table: &'d DeTable<'_>) {
        let mut meant = Vec::new();
        for (name, value) in table.iter() {
            self.path.push(Step::Key(name.get_ref()));
            match known.key(name.get_ref()) {
                Some(key) => self.shape(&key.shape, value),
                None => meant.extend(self.unknown(known, name.get_ref())),
            }
            self.path.pop();
        }
        let missing = |name: &str| !table.contains_key(name) && !meant.contains(&name);
        for key in known.keys.iter().filter(|key| key.required && missing(&key.name)) {
            let advice = match (&key.shape, &key.example) {
                (Shape::Value(_), Some(example)) => format!("write it, as in {} = \"{example}\"", key.name),
                (Shape::Table(_), _) => format!("write [{}]", key.name),
                _ => String::new(),
            };
            self.report(At::Key, format!("\"{}\" is missing", key.name), &advice);
        }
    }

    /// Reports the key; the known key it was probably meant to be, so that this one is not called missing too.
    fn unknown<'k>(&mut self, known: &'k Table, name: &str) -> Option<&'k str> {
        let has = |key: &Key| matches!(&key.shape, Shape::Table(table) if table.key(name).is_some());
        let whole = known.overlay_of.as_deref().filter(|of| self.root.key(of).is_some_and(has));
        if let Some(whole) = whole {
            self.report(At::Key, "cannot differ by database or user", &format!("write it under [{whole}]"));
            return None;
        }
        let names = || known.keys.iter().map(|key| key.name.as_str());
        let near = nearest(name, names());
        let of_pgbouncer = || schema::called_by_pgbouncer(self.root, name);
        let advice = match (near, self.root.keys.iter().find(|key| has(key)), self.root.key(name)) {
            (Some(near), _, _) => format!("did you mean \"{near}\"?"),
            (None, Some(elsewhere), _) => format!("there is one in [{}]", elsewhere.name),
            (None, None, Some(Key { shape: Shape::Value(_), .. })) => "it stands above the first table".to_owned(),
            (None, None, Some(table)) => format!("[{}] is a table of its own", table.name),
            (None, None, None) => match of_pgbouncer() {
                Some(ours) => format!("what PgBouncer calls so is {ours} here"),
                None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
            },
        };
        self.report(At::Key, "unknown key", &advice);
        near
    }

    fn shape(&mut self, shape: &Shape, value: &'d Spanned<DeValue<'_>>) {
        // A value where a table should be may be a password (`[users] app = "secret"`): only its type is told.
        match (shape, value.get_ref()) {
            (Shape::Value(leaf), value) => self.leaf(leaf, value),
            (Shape::Table(known), DeValue::Table(table)) => self.table(known, table),
            (Shape::Map(known), DeValue::Table(entries)) => {
                for (name, entry) in entries.iter() {
                    self.path.push(Step::Key(name.get_ref()));
                    if name.get_ref().is_empty() {
                        self.report(At::Key, "the name is empty", "write a name");
                    }
                    match entry.get_ref() {
                        DeValue::Table(table) => self.table(known, table),
                        other => self.no_table(other),
                    }
                    self.path.pop();
                }
            }
            (Shape::List(known), DeValue::Array(items)) => {
                for (i, item) in items.iter().enumerate() {
                    self.path.push(Step::Item(i));
                    match item.get_ref() {
                        DeValue::Table(table) => self.table(known, table),
                        other => self.report(At::Key, format!("expected a table, found {}", type_name(other)), ""),
                    }
                    self.path.pop();
                }
            }
            (Shape::List(_), other) => {
                let message = format!("expected a list of tables, found {}", type_name(other));
                let advice = format!("write [[{}]] with two pairs of brackets", key_name(&self.path));
                self.report(At::Key, message, &advice);
            }
            (Shape::Table(_), DeValue::Array(_)) => {
                let advice = format!("write [{}] with one pair of brackets", key_name(&self.path));
                self.report(At::Key, "expected one table, found a list", &advice);
            }
            (Shape::Table(_), other) => self.no_table(other),
            (Shape::Map(_), other) => {
                let advice = format!("write [{}.NAME], and its keys below", key_name(&self.path));
                self.report(At::Key, format!("expected tables, found {}", type_name(other)), &advice);
            }
        }
    }

    fn no_table(&mut self, found: &DeValue<'_>) {
        let advice = format!("write [{}], and its keys below", key_name(&self.path));
        self.report(At::Key, format!("expected a table, found {}", type_name(found)), &advice);
    }

    fn leaf(&mut self, leaf: &Leaf, value: &DeValue<'_>) {
        let takes = |name: &str| leaf.types.iter().any(|t| t == name);
        let secret = leaf.format.as_deref() == Some("secret");
        match value {
            DeValue::String(text) if takes("string") => self.text(leaf, text, secret),
            DeValue::Integer(number) if takes("integer") => {
                let number = i64::from_str_radix(number.as_str(), number.radix()).ok();
                match (number, leaf.min, leaf.max) {
                    (Some(n), Some(min), _) if n < min => {
                        self.report(At::Value, format!("{n} is too small"), &format!("the least is {min}"));
                    }
                    (Some(n), _, Some(max)) if n > max => {
                        self.report(At::Value, format!("{n} is too large"), &format!("the largest is {max}"));
                    }
                    (None, _, _) => self.report(At::Value, "the number is too large", ""),
                    (Some(_), _, _) => {}
                }
            }
            DeValue::Boolean(_) if takes("boolean") => {}
            DeValue::Array(items) if takes("array") => {
                for item in items.iter().filter(|item| !matches!(item.get_ref(), DeValue::String(_))) {
                    let message = format!("expected a list of strings, found {} in it", type_name(item.get_ref()));
                    self.report(At::Value, message, "");
                }
            }
            other if secret => {
                self.report(At::Key, format!("expected a string, found {}", type_name(other)), "write it in quotes");
            }
            other => {
                let advice = advice_for_type(leaf, other);
                self.report(At::Value, format!("expected {}, found {}", expected(leaf), type_name(other)), &advice);
            }
        }
    }

    fn text(&mut self, leaf: &Leaf, text: &str, secret: bool) {
        if !leaf.choices.is_empty() {
            if leaf.choices.iter().any(|(choice, _)| choice == text) {
                return;
            }
            let all = leaf.choices.iter().map(|(choice, _)| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ");
            let numbers = if leaf.types.iter().any(|t| t == "integer") { "a number or " } else { "" };
            let advice = match nearest(text, leaf.choices.iter().map(|(choice, _)| choice.as_str())) {
                Some(near) => format!("did you mean \"{near}\"? (valid: {numbers}{all})"),
                None => format!("valid: {numbers}{all}"),
            };
            return self.report(At::Value, format!("\"{text}\" is not valid here"), &advice);
        }
        let wrong = match leaf.format.as_deref() {
            Some("duration") => wrong::<ConfigDuration>(text),
            Some("period") => wrong::<Period>(text),
            Some("size") => wrong::<ByteSize>(text),
            Some("address") => wrong::<Address>(text),
            Some("http address") => wrong::<HttpAddress>(text),
            Some("agent address") => wrong::<AgentAddress>(text),
            Some("host") => wrong::<NodeHost>(text),
            Some("file mode") => wrong::<SocketMode>(text),
            _ if text.is_empty() && !secret => Some("the text is empty".to_owned()),
            _ => None,
        };
        if let Some(message) = wrong {
            self.report(At::Value, message, "");
        }
    }
}

fn wrong<T: FromStr<Err: Display>>(text: &str) -> Option<String> {
    text.parse::<T>().err().map(|error| error.to_string())
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn expected(leaf: &Leaf) -> String {
    let article = |format: &str| if format.starts_with('a') { "an" } else { "a" };
    let names = leaf.types.iter().map(|name| match (name.as_str(), leaf.format.as_deref()) {
        ("string", Some("duration" | "period")) => "a duration in quotes".to_owned(),
        ("string", Some("size")) => "a size in quotes".to_owned(),
        ("string", Some(format)) if leaf.choices.is_empty() => format!("{} {format} in quotes", article(format)),
        ("string", _) if leaf.choices.len() == 1 => {
            leaf.choices.first().map(|(choice, _)| format!("\"{choice}\"")).unwrap_or_default()
        }
        ("integer", _) => "a whole number".to_owned(),
        ("boolean", _) => "true or false".to_owned(),
        ("array", _) => "a list of strings".to_owned(),
        _ => "a string".to_owned(),
    });
    names.collect::<Vec<_>>().join(" or ")
}

fn advice_for_type(leaf: &Leaf, value: &DeValue<'_>) -> String {
    let takes = |name: &str| leaf.types.iter().any(|t| t == name);
    match (value, leaf.format.as_deref()) {
        (DeValue::Integer(n), Some("duration")) if n.as_str() == "0" => "write \"0\" to switch it off".to_owned(),
        (DeValue::Integer(n), Some("duration" | "period")) => {
            format!("write \"{n}s\" for seconds (units: us, ms, s, min, h, d)")
        }
        (DeValue::Integer(n), Some("size")) => format!("write \"{n}kB\" for kilobytes (units: B, kB, MB, GB, TB)"),
        (DeValue::Integer(n), Some("file mode")) => format!("write \"{n}\" with quotes, in octal"),
        (DeValue::String(text), _) if takes("array") => format!("write [\"{text}\"]"),
        (DeValue::String(text), _) if takes("integer") && text.parse::<i64>().is_ok() => {
            format!("write {text} without quotes")
        }
        (DeValue::String(text), _) if takes("boolean") && matches!(text.as_ref(), "true" | "false") => {
            format!("write {text} without quotes")
        }
        (DeValue::String(text), _) if takes("boolean") && matches!(text.as_ref(), "on" | "yes" | "1") => {
            "write true".to_owned()
        }
        (DeValue::String(text), _) if takes("boolean") && matches!(text.as_ref(), "off" | "no" | "0") => {
            "write false".to_owned()
        }
        _ if !leaf.choices.is_empty() => {
            let all = leaf.choices.iter().map(|(choice, _)| format!("\"{choice}\"")).collect::<Vec<_>>().join(", ");
            format!("valid: {all}")
        }
        _ => String::new(),
    }
}
