//! `/info`: the master and the machine it runs on (`rest.md` §3).

mod sample;

use std::env::consts;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use protocol::config::Master;
use protocol::terms::DataTls;
use serde::Serialize;

pub(crate) use self::sample::resident;

use self::sample::Sample;
use crate::address::code;

/// The members in their order; integers only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Go's name of the operating system.
    pub os: String,
    /// Go's name of the architecture.
    pub arch: String,
    /// The program's version.
    pub ver: String,
    /// The host of the master URL.
    pub name: String,
    /// `log` of the master.
    pub log: String,
    /// The TLS code in force.
    pub tls: String,
    /// Path of the certificate.
    pub crt: String,
    /// Path of its key.
    pub key: String,
    /// The master's display name.
    pub alias: String,
    /// The master's id.
    pub mid: String,
    /// Seconds since the master started.
    pub uptime: u64,
    /// Seconds since the machine started.
    pub sysup: u64,
    /// Percent, −1 if unknown.
    pub cpu: i64,
    /// Bytes, as the following up to `diskw`.
    pub mem_total: u64,
    /// In use.
    pub mem_used: u64,
    /// Swap space.
    pub swap_total: u64,
    /// In use.
    pub swap_used: u64,
    /// Received on all interfaces but loopback.
    pub netrx: u64,
    /// Sent.
    pub nettx: u64,
    /// Read from disks.
    pub diskr: u64,
    /// Written.
    pub diskw: u64,
    /// Cores.
    pub noc: u64,
}

/// Knows what does not change, and samples the rest.
#[derive(Debug)]
pub(crate) struct Sampler {
    fixed: Info,
    begun: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    sample: Sample,
    at: Instant,
    cpu: i64,
}

impl Sampler {
    /// Of a master whose TLS code in force is `tls`.
    pub(crate) fn new(master: &Master, tls: DataTls) -> Self {
        let setting = |name: &str| {
            let settings = master.settings();
            let found = settings.into_iter().find(|(own, _)| *own == name);
            found.map(|(_, text)| text).unwrap_or_default()
        };
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let begun = Instant::now();
        let sample = Sample::take();
        Self {
            fixed: Info {
                os: go_os(consts::OS).to_owned(),
                arch: go_arch(consts::ARCH).to_owned(),
                ver: env!("CARGO_PKG_VERSION").to_owned(),
                name: master.listen.host.clone(),
                log: setting("log"),
                tls: code(tls).to_string(),
                crt: setting("crt"),
                key: setting("key"),
                noc: u64::try_from(cores).unwrap_or(1),
                ..Info::default()
            },
            begun,
            seen: Mutex::new(Seen {
                // Since the machine started, until there is something to compare with.
                cpu: sample.cpu_since(&Sample {
                    cpu: Some((0, 0)),
                    ..Sample::default()
                }),
                sample,
                at: begun,
            }),
        }
    }

    /// Looks at the machine again.
    pub(crate) fn sample(&self) {
        let sample = Sample::take();
        let mut seen = self.seen();
        let cpu = match sample.cpu_since(&seen.sample) {
            -1 => seen.cpu,
            percent => percent,
        };
        let at = Instant::now();
        *seen = Seen { sample, at, cpu };
    }

    /// Everything but what the master is called.
    pub(crate) fn info(&self) -> Info {
        let Seen { sample, at, cpu } = *self.seen();
        let memory = sample.memory;
        Info {
            uptime: self.uptime(),
            sysup: sample.uptime.saturating_add(at.elapsed().as_secs()),
            cpu,
            mem_total: memory.total,
            mem_used: memory.used,
            swap_total: memory.swap_total,
            swap_used: memory.swap_used,
            netrx: sample.net.0,
            nettx: sample.net.1,
            diskr: sample.disks.0,
            diskw: sample.disks.1,
            ..self.fixed.clone()
        }
    }

    /// Seconds since the master started.
    pub(crate) fn uptime(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn go_os(name: &str) -> &str {
    match name {
        "macos" => "darwin",
        same => same,
    }
}

fn go_arch(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "loongarch64" => "loong64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "mips" if cfg!(target_endian = "little") => "mipsle",
        "mips64" if cfg!(target_endian = "little") => "mips64le",
        same => same,
    }
}

#[cfg(test)]
mod tests {
    use protocol::config::{Config, parse};

    use super::*;

    fn sampler(url: &str, tls: DataTls) -> Sampler {
        match parse(url, &|_| None).unwrap().config {
            Config::Master(master) => Sampler::new(&master, tls),
            Config::Tunnel(_) => panic!("not a master"),
        }
    }

    #[test]
    fn names_are_those_of_go() {
        assert_eq!((go_os("linux"), go_os("macos")), ("linux", "darwin"));
        let table = [
            ("x86_64", "amd64"),
            ("aarch64", "arm64"),
            ("arm", "arm"),
            ("riscv64", "riscv64"),
        ];
        for (name, expected) in table {
            assert_eq!(go_arch(name), expected);
        }
    }

    #[test]
    fn what_is_in_force_is_told_and_not_what_was_asked_for() {
        let sampler = sampler(
            "master://10.0.0.1:1?tls=2&crt=/c&key=/k&log=warn",
            DataTls::Pinned,
        );
        sampler.sample();
        let info = sampler.info();
        assert_eq!(
            (&*info.name, &*info.log, &*info.tls),
            ("10.0.0.1", "warn", "1")
        );
        assert_eq!((&*info.crt, &*info.key), ("/c", "/k"));
        assert!((-1..=100).contains(&info.cpu) && info.noc > 0 && info.sysup > 0);
    }

    #[test]
    fn members_have_their_order_and_are_integers() {
        let text = serde_json::to_string(&Info::default()).unwrap();
        assert_eq!(
            text,
            concat!(
                r#"{"os":"","arch":"","ver":"","name":"","log":"","tls":"","crt":"","key":"","#,
                r#""alias":"","mid":"","uptime":0,"sysup":0,"cpu":0,"mem_total":0,"mem_used":0,"#,
                r#""swap_total":0,"swap_used":0,"netrx":0,"nettx":0,"diskr":0,"diskw":0,"noc":0}"#
            )
        );
    }
}
