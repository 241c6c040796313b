//! Tables: medians, and medians of per-round ratios to the first row.

use crate::cells::{Cell, Figures, Row};
use crate::measure::median;

pub fn print(cell: &Cell, rows: &[Row]) {
    println!("### {}: {}, {} clients, {} servers", cell.name, cell.what, cell.clients, cell.servers);
    let names: Vec<_> = rows[0].rounds[0].0.keys().copied().collect();
    let header: Vec<_> = names.iter().map(|name| format!("{name} | ×")).collect();
    println!("| pooler | {} |\n|---|{}", header.join(" | "), "---|---|".repeat(names.len()));
    for row in rows {
        let cells: Vec<_> = names.iter().map(|name| cell_text(row, &rows[0], name)).collect();
        println!("| {} | {} |", row.peer, cells.join(" | "));
    }
    println!();
}

fn cell_text(row: &Row, base: &Row, name: &'static str) -> String {
    let value = |figures: &Figures| figures.0.get(name).copied().unwrap_or(f64::NAN);
    let values: Vec<_> = row.rounds.iter().map(value).collect();
    let ratios: Vec<_> = row.rounds.iter().zip(&base.rounds).map(|(own, base)| value(own) / value(base)).collect();
    let middle = median(&values);
    let digits = if middle.abs() < 10.0 {
        3
    } else if middle.abs() < 100.0 {
        1
    } else {
        0
    };
    format!("{middle:.digits$} | {:.2}", median(&ratios))
}
