//! The structs as text: the reference file and the documentation. Both walk the same `schema`; `tests/reference.rs`
//! holds the files in the tree to what these functions say.

mod docs;
mod reference;

pub use docs::render_docs;
pub use reference::render_reference;

use serde_json::Value;

use super::schema::{Key, Leaf};

/// A value as TOML writes it.
fn literal(value: &Value) -> String {
    match value {
        // JSON and TOML quote alike.
        Value::String(_) | Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Null | Value::Object(_) => String::new(),
    }
}

/// The default as TOML writes it.
fn default(leaf: &Leaf) -> Option<String> {
    leaf.default.as_ref().map(literal)
}

/// What to show where a value is wanted: the default, or else an example.
fn sample(key: &Key, leaf: &Leaf) -> String {
    let number = leaf.types.iter().any(|name| name == "integer");
    let example = || {
        let example = key.example.as_deref()?;
        Some(if number { example.to_owned() } else { literal(&Value::from(example)) })
    };
    default(leaf).or_else(example).unwrap_or_else(|| "\"\"".to_owned())
}

/// What a value may be, in words; each text may be code in Markdown.
fn takes(key: &Key, leaf: &Leaf, code: fn(&str) -> String) -> String {
    let choices = || leaf.choices.iter().map(|(choice, _)| code(&format!("\"{choice}\"")));
    let number = || {
        let unit = key.unit.as_ref().map(|unit| format!(" of {unit}")).unwrap_or_default();
        match (leaf.min, leaf.max.filter(|max| *max < i64::from(u32::MAX))) {
            (Some(min), Some(max)) => format!("number{unit}, {min} to {max}"),
            (Some(min), None) if min > 0 => format!("number{unit}, at least {min}"),
            _ => format!("number{unit}"),
        }
    };
    let words = leaf.types.iter().flat_map(|name| match (name.as_str(), leaf.format.as_deref()) {
        ("integer", _) => vec![number()],
        ("array", _) => vec!["list of texts".to_owned()],
        ("boolean", _) => vec![code("true"), code("false")],
        _ if !leaf.choices.is_empty() => choices().collect(),
        (_, Some("duration")) => vec![format!("duration, {} = off", code("\"0\""))],
        (_, Some("period")) => vec!["duration, not zero".to_owned()],
        (_, Some("secret")) | (_, None) => vec!["text".to_owned()],
        (_, Some(format)) => vec![format.to_owned()],
    });
    words.collect::<Vec<_>>().join(" or ")
}

/// The docstrings of the choices, as `"session": When the client disconnects.`
fn choices(leaf: &Leaf) -> impl Iterator<Item = (&str, &str)> {
    leaf.choices.iter().filter(|(_, doc)| !doc.is_empty()).map(|(choice, doc)| (choice.as_str(), doc.as_str()))
}
