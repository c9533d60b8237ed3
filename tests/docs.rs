//! What the documents say agrees with the code.

use std::path::Path;

use crate::support::binary::Launch;

/// Every parameter of a URL, in the order of the specification.
const PARAMETERS: [&str; 22] = [
    "log", "tls", "crt", "key", "ca", "sni", "proto", "min", "max", "mode", "type", "lbs", "dns",
    "dial", "read", "rate", "slot", "proxy", "block", "notcp", "noudp", "state",
];

/// Every environment variable, without `NP_`.
const VARIABLES: [&str; 17] = [
    "HANDSHAKE_TIMEOUT",
    "TCP_DIAL_TIMEOUT",
    "UDP_DIAL_TIMEOUT",
    "UDP_READ_TIMEOUT",
    "POOL_GET_TIMEOUT",
    "MIN_POOL_INTERVAL",
    "MAX_POOL_INTERVAL",
    "REPORT_INTERVAL",
    "SERVICE_COOLDOWN",
    "SHUTDOWN_TIMEOUT",
    "RELOAD_INTERVAL",
    "TCP_DATA_BUF_SIZE",
    "UDP_DATA_BUF_SIZE",
    "SEMAPHORE_LIMIT",
    "THREADS",
    "STATE_FILE",
    "URL",
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_readme_lists_every_parameter_and_variable() {
    let readme = read("README.md");
    for parameter in PARAMETERS {
        assert!(
            readme.contains(&format!("`{parameter}`")),
            "no row for {parameter}"
        );
    }
    for variable in VARIABLES {
        assert!(
            readme.contains(&format!("`{variable}`")),
            "no row for NP_{variable}"
        );
    }
}

#[test]
fn the_readme_lists_only_parameters_that_exist() {
    let readme = read("README.md");
    let (_, table) = readme
        .split_once("| parameter |")
        .expect("the table of parameters");
    let (table, _) = table.split_once("\n\n").unwrap();
    for row in table.lines().skip(2) {
        let cell = row.split('|').nth(1).unwrap();
        for name in cell.split('`').skip(1).step_by(2) {
            assert!(PARAMETERS.contains(&name), "{name} is in the README only");
        }
    }
}

#[test]
fn the_defaults_of_the_readme_are_the_ones_in_force() {
    let readme = read("README.md");
    let in_force = |url: &str| Launch::new(["check", url]).finish().stdout;
    let server = in_force("server://key@127.0.0.1:1/127.0.0.1:2");
    let client = in_force("client://key@127.0.0.1:1/127.0.0.1:2");
    for (name, printed) in [
        ("max", &server),
        ("slot", &server),
        ("dns", &server),
        ("min", &client),
        ("lbs", &client),
    ] {
        let row = readme
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let default = row
            .and_then(|row| row.split('|').nth(3))
            .unwrap()
            .replace('`', "");
        let expected = format!("{name}={}", default.trim());
        assert!(
            printed.contains(&expected),
            "{expected} is not in {printed}"
        );
    }
}

#[test]
fn the_versions_agree() {
    let version = env!("CARGO_PKG_VERSION");
    let printed = Launch::new(["--version"]).finish().stdout;
    assert!(printed.contains(version), "{printed}");
    let minor = version.rsplit_once('.').unwrap().0;
    assert!(
        read("README.md").contains(minor),
        "the README does not name {minor}"
    );
    assert!(read("CHANGELOG.md").contains("## [Unreleased]"));
}

#[test]
fn the_oldest_rust_of_the_readme_is_the_one_of_the_manifest() {
    let manifest = read("Cargo.toml");
    let line = manifest
        .lines()
        .find(|line| line.starts_with("rust-version"))
        .unwrap();
    let version = line.split('"').nth(1).unwrap();
    assert!(
        read("README.md").contains(&format!("Rust {version}")),
        "the README and {line}"
    );
}

/// The text of every Rust file below `dir`.
fn sources(dir: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all += &std::fs::read_to_string(&path).unwrap();
        }
    }
    all
}

#[test]
fn every_limit_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let outside = sources(&root.join("tests"));
    let units = ["protocol", "master"].map(|part| sources(&root.join(part)));
    let units = units.concat();
    let security = read("SECURITY.md");
    let (_, limits) = security.split_once("## Limits").unwrap();
    let (limits, _) = limits.split_once("\n## ").unwrap();
    let rows = limits.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|line| !line.starts_with("| limit"));
    let mut count = 0;
    for row in rows {
        count += 1;
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let place = if tests.starts_with("*unit*") {
            &units
        } else {
            &outside
        };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no test in {row}");
        for name in names {
            let head = format!("#[test]\nfn {name}(");
            let within = head.replace('\n', "\n    ");
            assert!(
                place.contains(&head) || place.contains(&within),
                "{name} is no test"
            );
        }
    }
    assert!(count > 30, "{count} rows");
}

#[test]
fn the_files_that_the_documents_name_exist() {
    for name in ["README.md", "CONTRIBUTING.md", "TESTING.md", "SECURITY.md"] {
        for link in read(name).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(target);
            assert!(path.exists(), "{name} links to {target}");
        }
    }
    for script in ["demo", "check", ".ci/run"] {
        use std::os::unix::fs::PermissionsExt;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert!(mode & 0o111 != 0, "{script} cannot be run");
    }
}
