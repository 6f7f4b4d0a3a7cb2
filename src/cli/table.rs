//! Tables for people: columns as wide as what is in them.

use crate::shown;

/// Rows below a heading; the last column is not padded. Columns of numbers stand at the right.
pub(super) struct Table {
    numbers: &'static [usize],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// `numbers` are the places of the columns that hold numbers.
    pub(super) fn new(heading: &[&str], numbers: &'static [usize]) -> Self {
        Self { numbers, rows: vec![heading.iter().map(|name| (*name).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| shown::part(&cell)).collect());
    }

    /// One line for each row, the heading first.
    pub(super) fn lines(&self) -> Vec<String> {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |at: usize| self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                if self.numbers.contains(&at) { format!("{cell:>width$}") } else { format!("{cell:width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }

    pub(super) fn text(&self) -> String {
        self.lines().iter().map(|line| format!("{line}\n")).collect()
    }
}

/// A path, and of a call the beginning of the digest of its arguments.
pub(super) fn call(path: &str, digest: Option<&str>) -> String {
    digest.map_or_else(|| path.to_owned(), |digest| format!("{path}?{}", digest.get(..12).unwrap_or(digest)))
}

/// The two largest units, as in `2h 5m`.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

pub(super) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}
