//! What is written for whoever looks: lines, steps with their duration, a table that is redrawn in place.
//!
//! Knows nothing of what it shows. Invariant: a reader that went away (`| head`)
//! is no failure; without a terminal there are no control characters, and
//! nothing is written twice.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a step that runs shows its seconds.
const TICK: Duration = Duration::from_millis(500);

/// The first column to the last but the end of the line is cleared.
const REWRITE_LINE: &str = "\r\x1b[K";

/// Columns, when the terminal does not say.
const COLUMNS: usize = 80;

/// The standard streams.
pub struct Screen {
    is_terminal: bool,
}

impl Screen {
    /// The standard streams of this process.
    pub fn new() -> Screen {
        Screen { is_terminal: std::io::stdout().is_terminal() }
    }

    /// Writes a line.
    pub fn say(&self, text: &str) {
        write(&format!("{text}\n"));
    }

    /// Writes a line to the standard error stream.
    pub fn complain(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Does `work` and says how long it took; on a terminal the seconds are shown while they pass. What takes longer than `patience` is
    /// explained by its text.
    pub fn step<T, E>(&self, what: &str, patience: Option<(Duration, &str)>, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begun = Instant::now();
        let is_terminal = self.is_terminal;
        let result = std::thread::scope(|scope| {
            let (done, is_done) = channel::<()>();
            scope.spawn(move || {
                let mut patience = patience;
                loop {
                    if is_terminal {
                        write(&format!("{REWRITE_LINE}  {}  {what} ...", seconds(begun)));
                    }
                    if let Some((_, text)) = patience.take_if(|(after, _)| begun.elapsed() >= *after) {
                        let rewrite = if is_terminal { REWRITE_LINE } else { "" };
                        write(&format!("{rewrite}           {text}\n"));
                    }
                    if is_done.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
            let result = work();
            drop(done);
            result
        });
        let rewrite = if is_terminal { REWRITE_LINE } else { "" };
        match &result {
            Ok(_) => write(&format!("{rewrite}  {}  {what}\n", seconds(begun))),
            Err(_) => write(&format!("{rewrite}  failed   {what}\n")),
        }
        result
    }

    /// A table with `header`.
    pub fn table<const N: usize>(&self, header: [&'static str; N]) -> Table<N> {
        Table { is_terminal: self.is_terminal, header, shown: Vec::new() }
    }
}

/// Rows under a header. On a terminal the table is redrawn in place; elsewhere a row is written when it has changed.
pub struct Table<const N: usize> {
    is_terminal: bool,
    header: [&'static str; N],
    shown: Vec<[String; N]>,
}

/// Width of the columns where rows are written one by one: the next one is not known yet.
const WIDTH_OF_UNKNOWN: usize = 13;

impl<const N: usize> Table<N> {
    /// Shows `rows`. The first column tells them apart; in the last one, a change is no reason to write a row again.
    pub fn show(&mut self, rows: Vec<[String; N]>) {
        let text = if self.is_terminal { self.redrawn(&rows) } else { self.changes(&rows) };
        write(&text);
        self.shown = rows;
    }

    fn redrawn(&self, rows: &[[String; N]]) -> String {
        let columns = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0));
        let mut text = String::new();
        if !self.shown.is_empty() {
            // A line longer than the terminal would be two, and the table would wander: lines are cut.
            text += &format!("\x1b[{}A\r\x1b[J", self.shown.len() + 1);
        }
        if rows.is_empty() {
            return text;
        }
        let widths: [usize; N] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].chars().count()).chain([self.header[column].len()]).max().unwrap_or_default()
        });
        for line in std::iter::once(self.header.map(str::to_owned)).chain(rows.iter().cloned()) {
            text.extend(aligned(&line, &widths).chars().take(columns.max(1)));
            text.push('\n');
        }
        text
    }

    fn changes(&self, rows: &[[String; N]]) -> String {
        let widths = [WIDTH_OF_UNKNOWN; N];
        let mut text = String::new();
        if self.shown.is_empty() && !rows.is_empty() {
            text += &format!("{}\n", aligned(&self.header.map(str::to_owned), &widths));
        }
        for row in rows {
            let is_known = self.shown.iter().any(|shown| shown[..N - 1] == row[..N - 1]);
            if !is_known {
                text += &format!("{}\n", aligned(row, &widths));
            }
        }
        text
    }
}

fn aligned<const N: usize>(cells: &[String; N], widths: &[usize; N]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
    cells.collect::<Vec<String>>().join("   ").trim_end().to_owned()
}

fn seconds(since: Instant) -> String {
    format!("{:5.1} s", since.elapsed().as_secs_f64())
}

fn write(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, status: &str, age: &str) -> [String; 3] {
        [name, status, age].map(str::to_owned)
    }

    #[test]
    fn without_a_terminal_only_changes_are_written() {
        let mut table = Table { is_terminal: false, header: ["NAME", "STATUS", "AGE"], shown: Vec::new() };
        let first = vec![row("echo", "Pending", "0s"), row("fail", "Pending", "0s")];
        assert_eq!(table.changes(&first).lines().count(), 3);
        table.shown = first;
        assert_eq!(table.changes(&[row("echo", "Pending", "1s"), row("fail", "Pending", "1s")]), "");
        let changed = table.changes(&[row("echo", "Pending", "2s"), row("fail", "Failed", "2s")]);
        assert_eq!(changed, "fail            Failed          2s\n");
    }

    #[test]
    fn on_a_terminal_the_table_is_as_wide_as_its_content_and_replaces_itself() {
        let mut table = Table { is_terminal: true, header: ["NAME", "STATUS", "AGE"], shown: Vec::new() };
        assert_eq!(table.redrawn(&[row("echo", "Pending", "0s")]), "NAME   STATUS    AGE\necho   Pending   0s\n");
        table.shown = vec![row("echo", "Pending", "0s")];
        assert!(table.redrawn(&[row("echo", "Completed", "1s")]).starts_with("\x1b[2A\r\x1b[JNAME   STATUS      AGE\n"));
    }
}
