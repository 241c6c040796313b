//! From a path to a [`Config`], or to everything that keeps it from being one.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::check::check;
use super::complete::complete;
use super::document::Document;
use super::file::{Config, VERSION};
use super::kindred::not_newer;
use super::problem::{Problem, Problems};
use super::reload::change::Written;
use super::schema;
use super::secret_file::{Exposed, exposed};
use super::validate::validate;

/// Reads, checks and completes a configuration file.
///
/// # Errors
/// Everything that is wrong with it, as far as it can be told: unknown keys and wrong values together; only when there
/// are none, what needs the whole file.
pub fn load(path: &Path) -> Result<Config, Problems> {
    match fs::read_to_string(path) {
        Ok(text) => parse(path, &Zeroizing::new(text)), // it may hold passwords
        Err(error) => Err(Problem::unreadable(path, &error).into()),
    }
}

/// [`load`] for a text that was read already; the path names it and is where relative paths start.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Config, Problems> {
    let document = Document::parse(path, text)?;
    not_newer(&document, VERSION)?; // whatever else is unknown in it is no mistake
    Problems::none_or_all(check(&document, schema::root()))?;
    // The tree goes into serde and the document stays for its places, so the text is parsed once more.
    let tree = Document::parse(path, text)?.into_tree();
    let mut config = Config::deserialize(toml::de::Deserializer::from(tree)).map_err(|error| {
        // `check` let something pass that serde does not: a defect of ours, but the file is not loaded.
        Problems::from(document.problem_at(error.span(), error.message().to_owned()))
    })?;
    config.written = Arc::new(Written::of(&document, path));
    let mut problems = complete(&mut config, &document, path);
    problems.extend(validate(&config, &document));
    if let (Some(key), Some(Exposed { message, advice })) = (config.written.first_secret(), exposed(path)) {
        problems.push(Problem { file: path.to_owned(), ..config.written.problem(key, message, &advice) });
    }
    Problems::none_or_all(problems)?;
    Ok(config)
}
