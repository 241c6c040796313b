//! The structs as text: the reference file and the documentation.

/// `config/howdah.reference.toml`
#[must_use]
pub fn render_reference() -> String {
    String::new()
}

/// `docs/configuration.md`
#[must_use]
pub fn render_docs() -> String {
    String::new()
}
