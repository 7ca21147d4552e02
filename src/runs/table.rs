//! Tables for terminals, with the box drawing of the Python client.

use std::fmt;

use unicode_width::UnicodeWidthStr;

/// Alignment of the cells of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A printable table.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) title_centred: bool,
    pub(crate) header: Option<Vec<String>>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) align: Align,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |cells: &Vec<String>| -> Vec<String> {
            cells.iter().map(|cell| one_line(cell)).collect()
        };
        let header: Option<Vec<String>> = self.header.as_ref().map(shown);
        let rows: Vec<Vec<String>> = self.rows.iter().map(shown).collect();
        let all = || header.iter().chain(&rows);
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in all() {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let line = |[left, fill, between, right]: [&str; 4]| {
            let parts: Vec<String> = widths.iter().map(|width| fill.repeat(width + 2)).collect();
            format!("{left}{}{right}", parts.join(between))
        };
        let row = |bar: &str, cells: &[String]| {
            let mut text = String::from(bar);
            for (cell, width) in cells.iter().zip(&widths) {
                let padding = " ".repeat(width - cell.width());
                match self.align {
                    Align::Right => text.push_str(&format!(" {padding}{cell} {bar}")),
                    Align::Left => text.push_str(&format!(" {cell}{padding} {bar}")),
                }
            }
            text
        };
        let total = widths.iter().map(|width| width + 3).sum::<usize>() + 1;
        let space = total.saturating_sub(self.title.width());
        let left = if self.title_centred { space / 2 } else { 0 };
        writeln!(
            f,
            "{}{}{}",
            " ".repeat(left),
            self.title,
            " ".repeat(space - left)
        )?;
        match &header {
            Some(header) => {
                writeln!(f, "{}", line(["┏", "━", "┳", "┓"]))?;
                writeln!(f, "{}", row("┃", header))?;
                writeln!(f, "{}", line(["┡", "━", "╇", "┩"]))?;
            }
            None => writeln!(f, "{}", line(["┌", "─", "┬", "┐"]))?,
        }
        for cells in &rows {
            writeln!(f, "{}", row("│", cells))?;
        }
        f.write_str(&line(["└", "─", "┴", "┘"]))
    }
}

/// Escapes control characters: a line break would break the box, and others could
/// control the terminal.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}
