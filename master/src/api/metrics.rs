//! `/metrics`: what is counted, in the text format of Prometheus 0.0.4.

use std::fmt::{self, Display, Write as _};

use super::{Api, Content, Reply};
use crate::metrics::{InstanceMetrics, Metrics};
use crate::object::Status;

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Api {
    pub(super) fn metrics(&self) -> Reply {
        let metrics = self.control.metrics();
        let mut page = Page(String::with_capacity(2048 + metrics.instances.len() * 2048));
        master(&mut page, &metrics);
        instances(&mut page, &metrics.instances);
        let text = page.0.into_bytes();
        Reply::with(200, Content::Text { kind: KIND, text })
    }
}

fn master(page: &mut Page, metrics: &Metrics) {
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family("nodepass_build_info", "gauge", "The program's version.");
    page.sample("nodepass_build_info", &version, 1);
    let single = [
        (
            "uptime_seconds",
            "gauge",
            "Time since the master started.",
            metrics.uptime,
        ),
        (
            "resident_memory_bytes",
            "gauge",
            "Memory of the process.",
            metrics.memory,
        ),
        (
            "event_streams",
            "gauge",
            "Event streams now.",
            metrics.subscribers as u64,
        ),
        (
            "event_streams_ended_total",
            "counter",
            "Event streams that were too slow.",
            metrics.subscriptions_ended,
        ),
        (
            "event_lines_lost_total",
            "counter",
            "Log lines that slow event streams did not get.",
            metrics.lines_lost,
        ),
    ];
    for (name, kind, help, value) in single {
        let name = format!("nodepass_{name}");
        page.family(&name, kind, help);
        page.sample(&name, &[], value);
    }
}

/// A value of an instance.
type Value = fn(&InstanceMetrics) -> u64;
/// A value of an instance under further labels.
type Labelled = (&'static [(&'static str, &'static str)], Value);
/// Name, type, help and values.
type Family = (
    &'static str,
    &'static str,
    &'static str,
    &'static [Labelled],
);

const FAMILIES: [Family; 12] = [
    (
        "running",
        "gauge",
        "Whether it runs.",
        &[(&[], |m| u64::from(m.status == Status::Running))],
    ),
    (
        "error",
        "gauge",
        "Whether it has failed.",
        &[(&[], |m| u64::from(m.status == Status::Error))],
    ),
    (
        "restarts_total",
        "counter",
        "Starts that succeeded, after the first.",
        &[(&[], |m| m.restarts)],
    ),
    (
        "ping_milliseconds",
        "gauge",
        "Round trip to the peer.",
        &[(&[], |m| m.counted.ping)],
    ),
    (
        "pool_connections",
        "gauge",
        "Idle data connections.",
        &[(&[], |m| m.counted.idle)],
    ),
    (
        "relays",
        "gauge",
        "Relays now.",
        &[
            (&[("network", "tcp")], |m| m.counted.tcps),
            (&[("network", "udp")], |m| m.counted.udps),
        ],
    ),
    (
        "received_bytes_total",
        "counter",
        "Bytes read from users or targets.",
        &[
            (&[("network", "tcp")], |m| m.counted.tcp_rx),
            (&[("network", "udp")], |m| m.counted.udp_rx),
        ],
    ),
    (
        "sent_bytes_total",
        "counter",
        "Bytes written to users or targets.",
        &[
            (&[("network", "tcp")], |m| m.counted.tcp_tx),
            (&[("network", "udp")], |m| m.counted.udp_tx),
        ],
    ),
    (
        "dial_failures_total",
        "counter",
        "Targets and data connections that did not answer.",
        &[(&[], |m| m.counted.dial_failures)],
    ),
    (
        "auth_failures_total",
        "counter",
        "Peers that did not have the key.",
        &[(&[], |m| m.counted.auth_failures)],
    ),
    (
        "refused_total",
        "counter",
        "Users turned away.",
        &[(&[], |m| m.counted.refused)],
    ),
    (
        "dropped_datagrams_total",
        "counter",
        "Datagrams that could not be delivered.",
        &[(&[], |m| m.counted.dropped)],
    ),
];

fn instances(page: &mut Page, list: &[InstanceMetrics]) {
    for (name, kind, help, values) in FAMILIES {
        let name = format!("nodepass_instance_{name}");
        page.family(&name, kind, help);
        for instance in list {
            let own = [
                ("id", &*instance.id),
                ("alias", &*instance.alias),
                ("type", instance.kind),
            ];
            for (further, value) in values {
                page.sample(&name, &[&own, *further].concat(), value(instance));
            }
        }
    }
}

/// The text so far. Writing to it cannot fail.
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            write!(self.0, "{before}{label}=\"{}\"", Escaped(text)).ok();
        }
        let after = if labels.is_empty() { "" } else { "}" };
        writeln!(self.0, "{after} {value}").ok();
    }
}

/// A label's value.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in self.0.chars() {
            match char {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_written_as_the_format_has_them() {
        let mut page = Page(String::new());
        page.family("a_total", "counter", "Help.");
        page.sample("a_total", &[], 1);
        page.sample("a_total", &[("x", "q\"\\\n"), ("y", "")], u64::MAX);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 1\n\
                        a_total{x=\"q\\\"\\\\\\n\",y=\"\"} 18446744073709551615\n";
        assert_eq!(page.0, expected);
    }
}
