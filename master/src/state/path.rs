//! Where the state file is (`rest.md` §5).

use std::path::PathBuf;

const NAME: &str = "nodepass.json";

/// The path of the state file: `given` by the master URL or by `NP_STATE_FILE`, else what the
/// environment and the user say. `None` for a user without a home.
#[must_use]
pub fn state_path(
    given: Option<&str>,
    env: &dyn Fn(&str) -> Option<String>,
    root: bool,
) -> Option<PathBuf> {
    let set = |name| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    if let Some(path) = given {
        return Some(path.into());
    }
    if let Some(list) = env("STATE_DIRECTORY") {
        // A service may have several; the first is the main one.
        if let Some(first) = list.split(':').find(|path| !path.is_empty()) {
            return Some(PathBuf::from(first).join(NAME));
        }
    }
    if root {
        return Some(PathBuf::from("/var/lib/nodepass").join(NAME));
    }
    let base = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    Some(base?.join("nodepass").join(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(given: Option<&str>, env: &[(&str, &str)], root: bool) -> Option<String> {
        let get = |name: &str| {
            let found = env.iter().find(|(own, _)| *own == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Some(state_path(given, &get, root)?.display().to_string())
    }

    #[test]
    fn the_first_rule_that_applies_counts() {
        let home = ("HOME", "/home/u");
        let service = ("STATE_DIRECTORY", "/var/lib/np:/other");
        let table: [(_, &[_], _, _); 8] = [
            (Some("/x.json"), &[service, home], true, "/x.json"),
            (None, &[service, home], true, "/var/lib/np/nodepass.json"),
            (None, &[service], false, "/var/lib/np/nodepass.json"),
            (None, &[home], true, "/var/lib/nodepass/nodepass.json"),
            (
                None,
                &[("STATE_DIRECTORY", "")],
                true,
                "/var/lib/nodepass/nodepass.json",
            ),
            (
                None,
                &[home],
                false,
                "/home/u/.local/state/nodepass/nodepass.json",
            ),
            (
                None,
                &[home, ("XDG_STATE_HOME", "/s")],
                false,
                "/s/nodepass/nodepass.json",
            ),
            (
                None,
                &[home, ("XDG_STATE_HOME", "")],
                false,
                "/home/u/.local/state/nodepass/nodepass.json",
            ),
        ];
        for (given, env, root, expected) in table {
            assert_eq!(path(given, env, root).as_deref(), Some(expected));
        }
        assert_eq!(path(None, &[], false), None);
    }
}
