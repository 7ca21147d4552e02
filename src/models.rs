//! The catalogue of backbones, for people.

use std::fmt;

use finetuner_protocol::BACKBONES;
use unicode_width::UnicodeWidthStr;

const TITLE: &str = "Finetuner backbones";
const COLUMNS: [&str; 5] = ["model", "task", "output_dim", "architecture", "description"];

/// The names of all backbones.
///
/// ```
/// assert!(finetuner::list_models().contains(&"openai/clip-vit-base-patch32"));
/// ```
#[must_use]
pub fn list_models() -> Vec<&'static str> {
    BACKBONES.iter().map(|backbone| backbone.name).collect()
}

/// All backbones as a table to print.
///
/// ```
/// println!("{}", finetuner::describe_models());
/// ```
#[must_use]
pub fn describe_models() -> ModelTable {
    let rows = BACKBONES.iter().map(|backbone| {
        [
            backbone.name.to_owned(),
            backbone.task.to_string(),
            backbone.output_dim.to_string(),
            backbone.architecture.to_owned(),
            backbone.description.to_owned(),
        ]
    });
    ModelTable(rows.collect())
}

/// The backbones; prints as a table.
#[derive(Clone, Debug)]
pub struct ModelTable(Vec<[String; 5]>);

impl fmt::Display for ModelTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = COLUMNS.map(str::to_owned);
        let mut widths = [0; 5];
        for row in std::iter::once(&header).chain(&self.0) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let line = |[left, fill, between, right]: [&str; 4]| {
            let parts = widths.map(|width| fill.repeat(width + 2));
            format!("{left}{}{right}", parts.join(between))
        };
        let row = |bar: &str, cells: &[String; 5]| {
            let mut text = String::from(bar);
            for (cell, width) in cells.iter().zip(widths) {
                let padding = " ".repeat(width - cell.width());
                text.push_str(&format!(" {padding}{cell} {bar}"));
            }
            text
        };
        let total = widths.iter().map(|width| width + 3).sum::<usize>() + 1;
        let left = (total - TITLE.width()) / 2;
        let right = total - TITLE.width() - left;
        writeln!(f, "{}{TITLE}{}", " ".repeat(left), " ".repeat(right))?;
        writeln!(f, "{}", line(["┏", "━", "┳", "┓"]))?;
        writeln!(f, "{}", row("┃", &header))?;
        writeln!(f, "{}", line(["┡", "━", "╇", "┩"]))?;
        for cells in &self.0 {
            writeln!(f, "{}", row("│", cells))?;
        }
        f.write_str(&line(["└", "─", "┴", "┘"]))
    }
}
