//! `auth.users_file`: users and what proves them, as in PgBouncer's `auth_file`.
//!
//! A line is `"user" "secret"`; a quote in a name is written twice; what follows the secret, and lines that begin with `;`
//! or `#`, is ignored. The secret is a password, `md5…` or `SCRAM-SHA-256$…`; an empty one is none.
//!
//! Pure, and its errors never hold what a line says.

use std::collections::BTreeMap;
use std::path::Path;

use super::credential::Credential;
use super::hba::Fault;
use super::secret::Secret;

/// Reads the file.
///
/// # Errors
/// Every line that is wrong.
pub fn parse(text: &str, path: &Path) -> Result<BTreeMap<String, Credential>, Vec<Fault>> {
    let (mut users, mut faults) = (BTreeMap::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let mut fault = |message: &str, advice: &str| {
            faults.push(Fault {
                file: path.to_owned(),
                line: index.saturating_add(1),
                message: message.to_owned(),
                advice: advice.to_owned(),
            });
        };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let pair = quoted(line).and_then(|(user, rest)| Some((user, quoted(rest.trim_start())?.0)));
        let Some((user, secret)) = pair else {
            fault("not a user and a secret", "write \"user\" \"secret\", both in quotes, a quote inside them twice");
            continue;
        };
        if user.is_empty() {
            fault("the user has no name", "write one");
            continue;
        }
        let credential = match Secret::new(secret) {
            none if none.reveal().is_empty() => continue,
            secret => Credential::from_secret(secret),
        };
        match credential {
            Err(error) => fault(&error.to_string(), ""),
            Ok(credential) => {
                if users.insert(user, credential).is_some() {
                    fault("the user is there twice", "remove one of the lines");
                }
            }
        }
    }
    if faults.is_empty() { Ok(users) } else { Err(faults) }
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let inner = text.strip_prefix('"')?;
    let mut found = String::with_capacity(inner.len()); // never grows: no copy of a secret stays behind
    let mut rest = inner;
    loop {
        let (before, after) = rest.split_once('"')?;
        found.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                found.push('"');
                rest = more;
            }
            None => return Some((found, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::md5::md5_hash;

    #[test]
    fn users_and_secrets_of_every_form_are_read() {
        let md5 = md5_hash(b"old", b"x");
        let text = format!(
            "; PgBouncer's\n# ours\n\n \"app\" \"se\"\"cret\" more\n\"old\"\t\"{md5}\"\n\"no \"\"one\"\"\" \"\"\n"
        );
        let users = parse(&text, Path::new("f")).unwrap();
        assert_eq!(users.keys().collect::<Vec<_>>(), ["app", "old"]);
        assert_eq!(users["app"], Credential::Password(Secret::new("se\"cret".into())));
        assert_eq!(users["old"], Credential::Md5(Secret::new(md5)));
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        let text = "\"a\" \"hunter2\"\napp hunter2\n\"b\" \"SCRAM-SHA-256$hunter2\"\n\"a\" \"hunter2\"\n\"\" \"x\"\n\"c\" \"hunter2\n";
        let faults = parse(text, Path::new("users")).unwrap_err();
        let said: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
        assert!(said[0].starts_with("users:2: not a user and a secret; write \"user\" \"secret\""), "{said:?}");
        assert!(said.iter().all(|line| !line.contains("hunter2")), "{said:?}");
    }
}
