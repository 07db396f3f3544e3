//! The table of experiments has every row, and names only tests that exist.

use std::path::Path;

const TABLE: &str = include_str!("../experiments.md");

/// How many rows sections 3 to 8 have, without those of [`LETTERED`].
const SECTIONS: [(usize, usize); 6] = [(3, 7), (4, 14), (5, 22), (6, 7), (7, 20), (8, 14)];
const LETTERED: [&str; 4] = ["4.11b", "5.7b", "5.7c", "5.7d"];

/// Number, and what shows it.
fn rows(table: &str) -> Vec<(&str, &str)> {
    let cells = table.lines().filter(|line| line.starts_with("| ")).map(|line| line.trim_matches('|').split(" | ").collect::<Vec<_>>());
    let rows = cells.filter(|cells| cells[0].trim().starts_with(|first: char| first.is_ascii_digit()));
    rows.map(|cells| if let [number, _, shown] = cells[..] { (number.trim(), shown.trim()) } else { panic!("{cells:?}") }).collect()
}

/// What is wrong with a row.
fn fault((number, shown): (&str, &str)) -> Option<String> {
    if let Some(reason) = shown.strip_prefix("none: ") {
        return (reason.len() < 15).then(|| format!("{number} gives no reason"));
    }
    let named: Vec<(&str, &str)> = shown.split('`').filter_map(|part| part.split_once("::")).collect();
    if named.is_empty() {
        return Some(format!("{number} names no test"));
    }
    named.into_iter().find_map(|(path, name)| {
        let path_of_file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = std::fs::read_to_string(path_of_file).unwrap_or_default();
        // A test's attribute, then its function; or a line of the macro that makes one test per recorded scenario.
        let is_function = [format!("]\nfn {name}()"), format!("]\nasync fn {name}()")].iter().any(|function| {
            text.replace("    #[", "#[").replace("\n    fn", "\nfn").replace("\n    async fn", "\nasync fn").contains(function)
        });
        let is_scenario = ["Exact", "Racing"].iter().any(|order| text.contains(&format!("    {name}: {order}, ")));
        (!is_function && !is_scenario).then(|| format!("{number} names {path}::{name}, which is no test"))
    })
}

#[test]
fn every_experiment_has_a_test_or_a_reason() {
    let mut expected: Vec<String> =
        SECTIONS.iter().flat_map(|(section, rows)| (1..=*rows).map(move |row| format!("{section}.{row}"))).collect();
    expected.extend(LETTERED.map(str::to_owned));
    let mut listed: Vec<&str> = rows(TABLE).iter().map(|(number, _)| *number).collect();
    expected.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, expected);
    assert_eq!(rows(TABLE).into_iter().filter_map(fault).collect::<Vec<_>>(), Vec::<String>::new());
}

/// The check can fail.
#[test]
fn a_missing_test_or_reason_is_found() {
    let file = "worker/tests/operations/table.rs";
    assert_eq!(fault(("1.1", &format!("`{file}::every_experiment_has_a_test_or_a_reason`"))), None);
    for shown in [format!("`{file}::no_such_test`"), format!("`{file}::rows`"), "`no/such.rs::x`".into(), "none: ".into(), "yes".into()] {
        assert!(fault(("1.1", &shown)).is_some(), "{shown}");
    }
}
