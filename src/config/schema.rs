//! The structs' own description of themselves, from the JSON schema that schemars derives: which keys there are, what
//! they take, and what their docstrings say. `check` compares a file with it, `render` prints it.

use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::Error as Stop;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::{Map, Value};

use super::admin::Admin;
use super::agents::Agents;
use super::auth::Auth;
use super::cluster::{Cluster, Monitor, Node};
use super::database::Database;
use super::failover::{Failover, Switchover};
use super::file::{Config, Http, Limits, Log};
use super::listener::Listener;
use super::network::Network;
use super::pool::{Pool, PoolOverlay};
use super::routing::Routing;
use super::stats::Stats;
use super::store::Store;
use super::timeouts::{Timeouts, TimeoutsOverlay};
use super::tls::{ListenerTls, NodeTls};
use super::user::User;

/// A table and its keys, in the order of the struct.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// The table whose keys may be given here again, such as `pool` for `[users.app.pool]`.
    pub(super) overlay_of: Option<String>,
    /// Its keys.
    pub(super) keys: Vec<Key>,
}

impl Table {
    /// The key of this name.
    pub(super) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// One key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// Its name in its table.
    pub(super) name: String,
    /// Its docstring, one paragraph.
    pub(super) doc: String,
    /// Whether a table without it is wrong.
    pub(super) required: bool,
    /// `live` or `restart`; absent for tables.
    pub(super) reload: Option<String>,
    /// What a number counts.
    pub(super) unit: Option<String>,
    /// What to show where there is no default: a value, or the NAME of a map's entry.
    pub(super) example: Option<String>,
    /// Whether it is usually written `{ … }` on one line.
    pub(super) inline: bool,
    /// What it takes.
    pub(super) shape: Shape,
}

/// What a key takes.
#[derive(Clone, Debug)]
pub(super) enum Shape {
    /// A value.
    Value(Leaf),
    /// `[key]`
    Table(Table),
    /// `[[key]]`
    List(Table),
    /// `[key.NAME]`
    Map(Table),
}

/// What a value must be.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaf {
    /// The types of TOML it may have: `string`, `integer`, `boolean`; `array` is a list of strings.
    pub(super) types: Vec<String>,
    /// Names the parser of a string, or the width of a number.
    pub(super) format: Option<String>,
    /// The strings it may be, each with its docstring; empty: any.
    pub(super) choices: Vec<(String, String)>,
    /// The least number.
    pub(super) min: Option<i64>,
    /// The largest number.
    pub(super) max: Option<i64>,
    /// What it is when absent.
    pub(super) default: Option<Value>,
}

/// The whole file.
pub(super) fn root() -> &'static Table {
    static ROOT: LazyLock<Table> = LazyLock::new(|| table_of::<Config>("Config", declared));
    &ROOT
}

/// Says of a struct, by its name, which fields it has.
pub(crate) type Fields = fn(&str) -> &'static [&'static str];

/// A file, from the struct of this name.
pub(super) fn table_of<T: JsonSchema>(name: &str, fields: Fields) -> Table {
    let schema = schemars::schema_for!(T);
    let mut top = schema.as_object().cloned().unwrap_or_default();
    top.insert("x-struct".to_owned(), name.into());
    let defs = top.get("$defs").and_then(Value::as_object).cloned().unwrap_or_default();
    Reading { defs: &defs, fields }.table(&top)
}

/// All keys, each with whether a reload changes it (else it waits for a restart): `databases.NAME.pool.size`, `listeners[].role`.
#[must_use]
pub fn keys() -> Vec<(String, bool)> {
    fn walk(table: &Table, at: &str, found: &mut Vec<(String, bool)>) {
        for key in &table.keys {
            let name = if at.is_empty() { key.name.clone() } else { format!("{at}.{}", key.name) };
            match &key.shape {
                Shape::Value(_) => found.push((name, key.reload.as_deref() != Some("restart"))),
                Shape::Table(inner) => walk(inner, &name, found),
                Shape::List(inner) => walk(inner, &format!("{name}[]"), found),
                Shape::Map(inner) => walk(inner, &format!("{name}.NAME"), found),
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), "", &mut found);
    found
}

/// What a key of PgBouncer's is called here, as the docstrings say it ("PgBouncer: `default_pool_size`"): `[pool] size`.
pub(super) fn called_by_pgbouncer(root: &Table, name: &str) -> Option<String> {
    let quoted = format!("`{name}`");
    let is_meant = |key: &&Key| key.doc.rsplit_once("PgBouncer: ").is_some_and(|(_, names)| names.contains(&quoted));
    root.keys.iter().find_map(|table| {
        let (written, keys) = match &table.shape {
            Shape::Table(keys) => (format!("[{}]", table.name), keys),
            Shape::List(keys) => (format!("[[{}]]", table.name), keys),
            Shape::Map(keys) => (format!("[{}.NAME]", table.name), keys),
            Shape::Value(_) => return None,
        };
        keys.keys.iter().find(is_meant).map(|key| format!("{written} {}", key.name))
    })
}

/// The fields of a struct as they are declared: the schema sorts them by name, a reader wants them by meaning.
fn declared(name: &str) -> &'static [&'static str] {
    match name {
        "Config" => fields_of::<Config>(),
        "Limits" => fields_of::<Limits>(),
        "Listener" => fields_of::<Listener>(),
        "ListenerTls" => fields_of::<ListenerTls>(),
        "Pool" => fields_of::<Pool>(),
        "PoolOverlay" => fields_of::<PoolOverlay>(),
        "Timeouts" => fields_of::<Timeouts>(),
        "TimeoutsOverlay" => fields_of::<TimeoutsOverlay>(),
        "Routing" => fields_of::<Routing>(),
        "Network" => fields_of::<Network>(),
        "Admin" => fields_of::<Admin>(),
        "Auth" => fields_of::<Auth>(),
        "User" => fields_of::<User>(),
        "Cluster" => fields_of::<Cluster>(),
        "Failover" => fields_of::<Failover>(),
        "Switchover" => fields_of::<Switchover>(),
        "Agents" => fields_of::<Agents>(),
        "Monitor" => fields_of::<Monitor>(),
        "Node" => fields_of::<Node>(),
        "NodeTls" => fields_of::<NodeTls>(),
        "Database" => fields_of::<Database>(),
        "Http" => fields_of::<Http>(),
        "Stats" => fields_of::<Stats>(),
        "Store" => fields_of::<Store>(),
        "Log" => fields_of::<Log>(),
        _ => &[],
    }
}

pub(crate) fn fields_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut probe = Probe(&[]);
    let _ = T::deserialize(&mut probe);
    probe.0
}

/// A deserializer that only listens: serde's derive tells it the fields, then it stops.
struct Probe(&'static [&'static str]);

impl<'de> Deserializer<'de> for &mut Probe {
    type Error = Stop;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Stop> {
        self.0 = fields;
        Err(Stop::custom("seen"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Stop> {
        Err(Stop::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// A node of the schema with its references and its `null` alternative resolved. What stands beside a reference wins.
fn resolve(node: &Value, defs: &Map<String, Value>) -> Map<String, Value> {
    let Some(node) = node.as_object() else { return Map::new() };
    let reference = node.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
    let any_of = node.get("anyOf").and_then(Value::as_array);
    let mut resolved = match (reference, any_of) {
        (Some(name), _) => {
            let mut inner = defs.get(name).map(|inner| resolve(inner, defs)).unwrap_or_default();
            inner.insert("x-struct".to_owned(), name.into());
            inner
        }
        (None, Some(alternatives)) => {
            let not_null = alternatives.iter().find(|a| a.get("type").and_then(Value::as_str) != Some("null"));
            not_null.map(|inner| resolve(inner, defs)).unwrap_or_default()
        }
        (None, None) => Map::new(),
    };
    for (key, value) in node {
        if key != "$ref" && key != "anyOf" {
            resolved.insert(key.clone(), value.clone());
        }
    }
    resolved
}

/// What a schema is read with.
struct Reading<'s> {
    defs: &'s Map<String, Value>,
    fields: Fields,
}

impl Reading<'_> {
    fn table(&self, node: &Map<String, Value>) -> Table {
        let text = |key: &str| node.get(key).and_then(Value::as_str).map(str::to_owned);
        let required: Vec<&str> =
            node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = node.get("properties").and_then(Value::as_object);
        let fields = (self.fields)(&text("x-struct").unwrap_or_default());
        let keys = fields.iter().filter_map(|name| {
            let node = resolve(properties?.get(*name)?, self.defs);
            Some(self.key(name, required.contains(name), &node))
        });
        Table { overlay_of: text("x-overlay-of"), keys: keys.collect() }
    }

    fn key(&self, name: &str, required: bool, node: &Map<String, Value>) -> Key {
        let text = |key: &str| node.get(key).and_then(Value::as_str).map(str::to_owned);
        let object = |key: &str| node.get(key).filter(|v| v.is_object()).map(|v| resolve(v, self.defs));
        let inner = |key: &str| object(key).filter(|v| v.contains_key("properties")).map(|v| self.table(&v));
        let shape = match (inner("additionalProperties"), inner("items"), node.contains_key("properties")) {
            (Some(entry), _, _) => Shape::Map(entry),
            (None, Some(item), _) => Shape::List(item),
            (None, None, true) => Shape::Table(self.table(node)),
            (None, None, false) => Shape::Value(leaf(node)),
        };
        Key {
            name: name.to_owned(),
            doc: text("description").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "),
            required,
            reload: text("x-reload"),
            unit: text("x-unit"),
            example: text("x-example"),
            inline: node.get("x-inline").and_then(Value::as_bool) == Some(true),
            shape,
        }
    }
}

fn leaf(node: &Map<String, Value>) -> Leaf {
    let strings = |value: &Value| -> Vec<String> {
        match value {
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        }
    };
    let mut types = node.get("type").map(strings).unwrap_or_default();
    types.retain(|name| name != "null");
    let mut choices: Vec<(String, String)> =
        node.get("enum").map(strings).unwrap_or_default().into_iter().map(|choice| (choice, String::new())).collect();
    for choice in node.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| choice.get(key).and_then(Value::as_str).map(str::to_owned);
        if let Some(value) = text("const") {
            choices.push((value, text("description").unwrap_or_default()));
        }
    }
    if types.is_empty() && !choices.is_empty() {
        types.push("string".to_owned());
    }
    let format = node.get("format").and_then(Value::as_str).map(str::to_owned);
    let widest = match format.as_deref() {
        Some("uint32") => Some(i64::from(u32::MAX)),
        Some("uint16") => Some(i64::from(u16::MAX)),
        _ => None,
    };
    Leaf {
        types,
        choices,
        min: node.get("minimum").and_then(Value::as_i64),
        max: node.get("maximum").and_then(Value::as_i64).or(widest),
        default: node.get("default").filter(|value| !value.is_null()).cloned(),
        format,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_value(table: &Table, path: &str, seen: &mut Vec<(String, Key)>) {
        assert!(!table.keys.is_empty(), "\"{path}\" has no keys: is its struct missing in declared()?");
        for key in &table.keys {
            let path = format!("{path}.{}", key.name);
            match &key.shape {
                Shape::Value(_) => seen.push((path, key.clone())),
                Shape::Table(t) | Shape::List(t) | Shape::Map(t) => every_value(t, &path, seen),
            }
        }
    }

    #[test]
    fn every_key_says_what_it_is_and_how_it_is_reloaded() {
        let mut seen = Vec::new();
        every_value(root(), "", &mut seen);
        assert!(seen.len() > 60, "{}", seen.len());
        for (path, key) in seen {
            assert!(!key.doc.is_empty(), "{path} has no docstring");
            assert!(matches!(key.reload.as_deref(), Some("live" | "restart")), "{path} has no x-reload");
            let Shape::Value(leaf) = &key.shape else { unreachable!() };
            assert!(!leaf.types.is_empty(), "{path} has no type");
            assert!(!key.required || key.example.is_some(), "{path} is required and has no example");
        }
    }

    #[test]
    fn the_keys_that_need_a_restart_are_those_that_reload_compares() {
        let mut seen = Vec::new();
        every_value(root(), "", &mut seen);
        seen.retain(|(_, key)| key.reload.as_deref() == Some("restart"));
        let names: Vec<&str> = seen.iter().map(|(path, _)| path.as_str()).collect();
        let compared = [".limits.workers", ".store.kind", ".store.path"];
        assert_eq!(names, compared);
    }

    #[test]
    fn keys_stand_in_the_order_of_the_struct() {
        let names: Vec<&str> = root().keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names.first().copied(), Some("version"));
        assert_eq!(names.last().copied(), Some("log"));
    }
}
