//! `nodepass check`: the configuration in force, for people.

use std::fmt::Write as _;

use protocol::config::{Config, KeyText, Role};

/// The spelled-out URL without its key, then every setting on a line of its own.
pub(crate) fn describe(config: &Config) -> String {
    let (mut rows, env) = match config {
        Config::Tunnel(tunnel) => {
            let role = match tunnel.role {
                Role::Server => "server",
                Role::Client => "client",
            };
            let key = if tunnel.default_key {
                "none: the default one of the port, which anyone can compute"
            } else {
                "given"
            };
            let targets: Vec<_> = tunnel
                .targets
                .iter()
                .map(|target| target.to_string())
                .collect();
            let rows = vec![
                ("role", role.to_owned()),
                ("tunnel key", key.to_owned()),
                ("tunnel", tunnel.tunnel.to_string()),
                ("target", targets.join(", ")),
            ];
            (rows, &tunnel.env)
        }
        Config::Master(master) => {
            let rows = vec![
                ("role", "master".to_owned()),
                ("listen", master.listen.to_string()),
                ("prefix", master.prefix.clone()),
            ];
            (rows, &master.env)
        }
    };
    rows.extend(config.settings());
    rows.extend(env.settings());
    let mut text = config.spelled_out(KeyText::Masked) + "\n\n";
    for (name, value) in rows {
        let value = if value.is_empty() {
            absent(name)
        } else {
            &value
        };
        // Writing to a string cannot fail.
        writeln!(text, "{name:<22}{value}").ok();
    }
    text
}

/// What holds for a setting without a value.
fn absent(name: &str) -> &'static str {
    match name {
        "ca" => "the system's roots",
        "sni" => "the host",
        "state" => "the default path",
        "NP_THREADS" => "as many as cores, at most 4",
        _ => "-",
    }
}

#[cfg(test)]
mod tests {
    use protocol::config::parse;

    use super::*;

    fn described(url: &str) -> String {
        describe(&parse(url, &|_| None).unwrap().config)
    }

    #[test]
    fn every_setting_has_a_line_and_the_key_has_none() {
        let text = described("server://s3cret@:10101/:8080?tls=1");
        assert!(
            text.starts_with("server://***@:10101/:8080?log=info&tls=1&"),
            "{text}"
        );
        for line in [
            "tunnel key            given\n",
            "target                :8080\n",
            "tls                   1\n",
            "crt                   -\n",
            "slot                  65536\n",
            "NP_REPORT_INTERVAL    5s\n",
            "NP_THREADS            as many as cores, at most 4\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("s3cret"), "{text}");
    }

    #[test]
    fn a_key_that_is_none_is_pointed_out() {
        let text = described("client://a:1/b:2,[::1]:3");
        assert!(text.contains("anyone can compute"), "{text}");
        assert!(
            text.contains("target                b:2, [::1]:3\n"),
            "{text}"
        );
    }

    #[test]
    fn masters_are_described_too() {
        let text = described("master://:9090/admin?tls=1");
        assert!(
            text.starts_with("master://:9090/admin?log=info&tls=1\n\nrole "),
            "{text}"
        );
        assert!(
            text.contains("state                 the default path\n"),
            "{text}"
        );
    }
}
