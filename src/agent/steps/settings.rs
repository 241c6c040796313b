//! Settings, by ALTER SYSTEM: PostgreSQL checks their values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tokio::time;

use super::freeze::reload_if_running;
use super::{from_journal, to_journal};
use crate::agent::postgres::auto_conf;
use crate::agent::postgres::files::Image;
use crate::agent::postgres::local::{Local, literal};
use crate::agent::step::{Act, Step, Work};
use crate::directive::{Code, Failure};

/// Between two looks whether the reload has come.
const PAUSE: Duration = Duration::from_millis(3);
/// What PostgreSQL splits at commas only while it is unquoted (`GUC_LIST_QUOTE`).
const LISTS: [&str; 5] = [
    "local_preload_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Whether PostgreSQL could have a setting of this name, and an agent lets it be changed: whom to follow is not a setting.
///
/// # Errors
/// [`Code::Malformed`].
pub fn check_name(name: &str) -> Result<(), Failure> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
    if !plain || name.is_empty() {
        return Err(Failure::new(Code::Malformed, format!("\"{name}\" is no name of a setting")));
    }
    if ["primary_conninfo", "primary_slot_name", "restore_command"].iter().any(|own| own.eq_ignore_ascii_case(name)) {
        let text = format!("\"{name}\" is set by follow and freeze, not by configure");
        return Err(Failure::new(Code::Malformed, text));
    }
    Ok(())
}

/// Sets and resets, and reloads. Metadata `pending_restart`: names, with commas. Undone: the file as it was, and a reload.
pub struct Set(pub BTreeMap<String, Option<String>>);

impl Step for Set {
    fn name(&self) -> &'static str {
        "change settings"
    }

    fn before<'a>(&'a self, work: &'a Work) -> Act<'a, Value> {
        Box::pin(async move { to_journal(&Image::of(&auto_conf::path(&work.config.data_directory))?) })
    }

    fn apply<'a>(&'a self, work: &'a Work) -> Act<'a, ()> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Ok(());
            }
            let local = Local::open(&work.config).await?;
            let loaded = local.value("SELECT pg_conf_load_time()").await?;
            for (name, value) in &self.0 {
                local.rows(&statement(name, value.as_deref())).await.map_err(|error| {
                    let failure = Failure::from(error);
                    Failure::new(failure.code, format!("setting \"{name}\": {}", failure.text))
                })?;
            }
            local.reload().await?;
            // a session reads the files when it is told to, which is a moment later
            while local.value("SELECT pg_conf_load_time()").await? == loaded {
                time::sleep(PAUSE).await;
            }
            let ask = "SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM pg_settings WHERE pending_restart";
            work.notes.find("pending_restart", local.value(ask).await?.unwrap_or_default());
            Ok(())
        })
    }

    fn undo<'a>(&'a self, work: &'a Work, before: &'a Value) -> Act<'a, ()> {
        Box::pin(async move {
            if self.0.is_empty() {
                return Ok(());
            }
            let image: Image = from_journal(before)?;
            let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
            auto_conf::revert(&work.config.data_directory, &image, &names)?;
            reload_if_running(&work.config).await
        })
    }
}

fn statement(name: &str, value: Option<&str>) -> String {
    // the parts of a custom setting's name are identifiers each
    let quoted: Vec<String> = name.split('.').map(|part| format!("\"{part}\"")).collect();
    let name_in_sql = quoted.join(".");
    match value {
        None => format!("ALTER SYSTEM RESET {name_in_sql}"),
        Some(value) if LISTS.contains(&name) && !value.trim().is_empty() => {
            let elements: Vec<String> = value.split(',').map(|element| literal(element.trim())).collect();
            format!("ALTER SYSTEM SET {name_in_sql} = {}", elements.join(", "))
        }
        Some(value) => format!("ALTER SYSTEM SET {name_in_sql} = {}", literal(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_said_as_sql_wants_them() {
        assert_eq!(statement("work_mem", None), "ALTER SYSTEM RESET \"work_mem\"");
        assert_eq!(
            statement("synchronous_standby_names", Some("ANY 1 (a, \"b\")")),
            "ALTER SYSTEM SET \"synchronous_standby_names\" = 'ANY 1 (a, \"b\")'"
        );
        assert_eq!(
            statement("shared_preload_libraries", Some("a, b")),
            "ALTER SYSTEM SET \"shared_preload_libraries\" = 'a', 'b'"
        );
        assert_eq!(statement("my.own", Some("it's")), "ALTER SYSTEM SET \"my\".\"own\" = 'it''s'");
    }

    #[test]
    fn whom_to_follow_is_not_configured() {
        assert!(check_name("wal_keep_size").is_ok());
        for wrong in ["", "a b", "x\"; DROP", "Primary_Conninfo"] {
            assert_eq!(check_name(wrong).unwrap_err().code, Code::Malformed, "{wrong}");
        }
    }
}
