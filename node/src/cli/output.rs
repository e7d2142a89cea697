//! What the command line prints, and where: results on standard output, everything else on standard error.
//!
//! Colours come and go with `anstream`: none when the output is no terminal or `NO_COLOR` is set.

use anstyle::{AnsiColor, Style};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

const BOLD: Style = Style::new().bold();
const RED: Style = AnsiColor::Red.on_default().bold();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
const DIM: Style = Style::new().dimmed();

/// Colours that tell nodes apart, on light and on dark; red is for errors.
const NODE_COLORS: [AnsiColor; 5] =
    [AnsiColor::Cyan, AnsiColor::Magenta, AnsiColor::Green, AnsiColor::Blue, AnsiColor::Yellow];

/// A line of the result.
pub(super) fn line(text: &str) {
    anstream::println!("{text}");
}

/// The result as JSON, for programs.
pub(super) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A part of the result as JSON on one line, for programs that read while this one works.
pub(super) fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?);
    Ok(())
}

/// Something worth knowing that is no result.
pub(super) fn note(text: &str) {
    anstream::eprintln!("{YELLOW}{text}{YELLOW:#}");
}

/// The error that ends the program.
pub(super) fn error(error: &anyhow::Error) {
    anstream::eprintln!("{RED}error:{RED:#} {error:#}");
}

/// A line that somebody else wrote.
pub(super) fn prefixed(prefix: &str, text: &str) {
    anstream::eprintln!("{prefix} {text}");
}

/// What stands before the lines of the node with this number.
pub(super) fn node_prefix(number: usize) -> String {
    let style = NODE_COLORS[(number - 1) % NODE_COLORS.len()].on_default();
    format!("{style}node-{number}{style:#} {DIM}|{DIM:#}")
}

pub(super) fn bold(text: &str) -> String {
    format!("{BOLD}{text}{BOLD:#}")
}

pub(super) fn good(text: &str) -> String {
    format!("{GREEN}{text}{GREEN:#}")
}

pub(super) fn bad(text: &str) -> String {
    format!("{RED}{text}{RED:#}")
}

/// A table without frames: columns of text, easy to read and to cut.
pub(super) fn table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Bytes for people.
pub(super) fn bytes(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// Seconds for people: `1:02:03`, or `-` when unknown.
pub(super) fn clock(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else {
        return "-".to_owned();
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, which is as good as any answer to a length that no video has"
    )]
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, minutes, seconds) => format!("{minutes}:{seconds:02}"),
        (hours, minutes, seconds) => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_like_a_clock() {
        assert_eq!(clock(Some(9.4)), "0:09");
        assert_eq!(clock(Some(754.0)), "12:34");
        assert_eq!(clock(Some(3723.0)), "1:02:03");
        assert_eq!(clock(None), "-");
    }

    #[test]
    fn tables_have_no_frames() {
        let text = table(["ID", "NAME"], vec![["1".to_owned(), "a".to_owned()]]);
        assert!(text.contains("ID") && text.contains('1'), "{text}");
        assert!(!text.contains('|'), "{text}");
    }
}
