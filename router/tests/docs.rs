//! docs/router.md has a row for every option, with its default.

use radixfleet_router::config::{OptionDescription, options};

const DOCUMENT: &str = include_str!("../../docs/router.md");

/// How the row of an option begins.
fn row(option: &OptionDescription) -> String {
    match &option.default {
        Some(default) if option.takes_value => format!("| `--{}` | `{default}` | ", option.name),
        _ => format!("| `--{}` | — | ", option.name),
    }
}

/// The lines of the section `Options`.
fn rows() -> impl Iterator<Item = &'static str> {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("Options\n")).expect("there is a section");
    section.lines().filter(|line| line.starts_with("| `--"))
}

#[test]
fn every_option_is_described_with_its_default() {
    let missing: Vec<String> =
        options().iter().map(row).filter(|row| !rows().any(|line| line.starts_with(row))).collect();
    assert!(
        missing.is_empty(),
        "the section Options of docs/router.md lacks rows that begin with:\n{}",
        missing.join("\n")
    );
}

#[test]
fn no_option_is_described_that_does_not_exist() {
    let options = options();
    let stale: Vec<&str> = rows().filter(|line| !options.iter().any(|option| line.starts_with(&row(option)))).collect();
    assert!(stale.is_empty(), "the section Options of docs/router.md has rows of no option:\n{}", stale.join("\n"));
}
