//! The state diagram of ARCHITECTURE.md, from the table in `stage`.

use std::fmt::Write as _;

use super::stage::{Stage, WAYS};

/// The stages and the ways between them, in Mermaid's notation.
#[must_use]
pub fn diagram() -> String {
    let mut text = String::from("```mermaid\nstateDiagram-v2\n    [*] --> starting\n");
    for (from, why, to) in WAYS {
        let _ = writeln!(text, "    {} --> {}: {}", id(*from), id(*to), why.replace(':', ","));
    }
    text.push_str("```\n");
    text
}

/// Mermaid takes no hyphens in names.
fn id(stage: Stage) -> String {
    stage.name().replace('-', "_")
}
