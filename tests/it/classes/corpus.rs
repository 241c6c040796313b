//! Our own statements with what they are: `corpus.txt`.

/// One of them.
#[derive(Clone, Debug)]
pub struct Row {
    pub sql: String,
    pub class: &'static str,
    pub reason: &'static str,
}

/// All of them.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut said = ("", "");
    for line in include_str!("corpus.txt").lines() {
        if let Some(heading) = line.strip_prefix('[') {
            said = heading.strip_suffix(']').unwrap().split_once(' ').unwrap();
        } else if !line.is_empty() && !line.starts_with('#') {
            let sql = line.replace("\\n", "\n");
            rows.push(Row { sql, class: said.0, reason: said.1 });
        }
    }
    rows
}
