//! What was measured, as a table.

#![allow(clippy::print_stdout, reason = "the report is the program's output")]

/// One measured figure beside its peer's.
struct Row {
    name: &'static str,
    what: String,
    ours: String,
    peer: String,
    ratio: Option<f64>,
}

/// All figures of a run; each is also printed as soon as it is known, because a run takes minutes.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure. `ratio` is better the higher it is, whatever the unit.
    pub(crate) fn add(
        &mut self,
        name: &'static str,
        what: impl Into<String>,
        ours: String,
        peer: String,
        ratio: Option<f64>,
    ) {
        let row = Row { name, what: what.into(), ours, peer, ratio };
        println!("{}", line(&row));
        self.rows.push(row);
    }

    /// Says what is being done, for whoever waits.
    pub(crate) fn step(&self, text: &str) {
        println!("… {text}");
    }

    /// All figures once more, together.
    pub(crate) fn print(&self) {
        println!("\nratio: ours against the peer, above 1 is better than the peer\n");
        for row in &self.rows {
            println!("{}", line(row));
        }
    }
}

fn line(row: &Row) -> String {
    let ratio = row.ratio.map_or_else(|| "     –".to_owned(), |ratio| format!("{ratio:6.2}"));
    format!("{:3} {ratio} × | {} | ours: {} | peer: {}", row.name, row.what, row.ours, row.peer)
}
