//! Other people's programs. A missing one fails the test: `.ci/run` installs them all.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::binary::Process;
use super::kernel::until_listening;
use super::ports::Port;
use super::scratch::Scratch;

/// The path of `name`, looked for in `PATH` and the system's directories.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    places
        .map(|place| place.join(name))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: run .ci/run, which installs it"))
}

/// Runs `name` to its end, which must come within `limit`.
pub(crate) fn run<S: AsRef<str>>(name: &str, args: &[S], limit: Duration) -> Output {
    let mut command = Command::new(program(name));
    command
        .args(args.iter().map(AsRef::as_ref))
        .stdin(Stdio::null());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    let waiter = thread::spawn(move || child.wait_with_output().unwrap());
    let end = Instant::now() + limit;
    super::until::poll(limit, || waiter.is_finished().then_some(()));
    if !waiter.is_finished() {
        kill_process(pid, Signal::KILL).ok();
    }
    let output = waiter.join().unwrap();
    assert!(Instant::now() < end, "{name} did not end within {limit:?}");
    output
}

/// Runs `name`, which must succeed; its standard output.
pub(crate) fn succeed<S: AsRef<str>>(name: &str, args: &[S], limit: Duration) -> String {
    let output = run(name, args, limit);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success(),
        "{name} failed: {}\n{out}{err}",
        output.status
    );
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An `sshd` for one test, with keys of its own, and a client that trusts it.
#[derive(Debug)]
pub(crate) struct Ssh {
    _daemon: Process,
    port: Port,
    scratch: Scratch,
    user: String,
}

impl Ssh {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        let (scratch, port) = (Scratch::new(), Port::reserve());
        for name in ["host", "user"] {
            let file = scratch.path().join(name).display().to_string();
            let args = ["-q", "-t", "ed25519", "-N", "", "-f", &file];
            succeed("ssh-keygen", &args, Duration::from_secs(20));
        }
        let user = succeed("id", &["-un"], Duration::from_secs(5))
            .trim()
            .to_owned();
        if user == "root" {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let config = scratch.write("sshd_config", Self::config(scratch.path(), port.addr()));
        let mut command = Command::new(program("sshd"));
        command.args(["-D", "-e", "-f"]).arg(config);
        let daemon = Process::start(command, "sshd");
        until_listening(port.addr());
        Self {
            _daemon: daemon,
            port,
            scratch,
            user,
        }
    }

    fn config(dir: &Path, addr: SocketAddr) -> String {
        let mut config = String::new();
        let dir = dir.display();
        for line in [
            format!("ListenAddress {addr}"),
            format!("HostKey {dir}/host"),
            format!("AuthorizedKeysFile {dir}/user.pub"),
            "StrictModes no".to_owned(),
            "UsePAM no".to_owned(),
            "PasswordAuthentication no".to_owned(),
            "PermitRootLogin prohibit-password".to_owned(),
            "PidFile none".to_owned(),
            "Subsystem sftp internal-sftp".to_owned(),
        ] {
            writeln!(config, "{line}").unwrap();
        }
        config
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Runs a command on it through `via`; its standard output.
    pub(crate) fn command(&self, via: SocketAddr, command: &str) -> String {
        let mut args = self.options("-p", via);
        args.push(format!("{}@{}", self.user, via.ip()));
        args.push(command.to_owned());
        succeed("ssh", &args, Duration::from_secs(30))
    }

    /// Copies `from` to `to` on it through `via`.
    pub(crate) fn copy(&self, via: SocketAddr, from: &Path, to: &Path) {
        let mut args = self.options("-P", via);
        args.push(from.display().to_string());
        args.push(format!("{}@{}:{}", self.user, via.ip(), to.display()));
        succeed("scp", &args, Duration::from_secs(60));
    }

    fn options(&self, port_option: &str, via: SocketAddr) -> Vec<String> {
        let identity = self.scratch.path().join("user").display().to_string();
        let fixed = [
            "-q",
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-i",
            &identity,
            port_option,
            &via.port().to_string(),
        ];
        fixed.map(str::to_owned).to_vec()
    }
}

/// An `iperf3` server for one test.
#[derive(Debug)]
pub(crate) struct Iperf {
    _server: Process,
    port: Port,
}

impl Iperf {
    /// Starts it on a free port.
    pub(crate) fn start() -> Self {
        let port = Port::reserve();
        let mut command = Command::new(program("iperf3"));
        command.args(["-s", "-B", "127.0.0.1", "-p", &port.number().to_string()]);
        let server = Process::start(command, "iperf3");
        until_listening(port.addr());
        Self {
            _server: server,
            port,
        }
    }

    /// Where it listens.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// One run through `via`; bits per second that were received.
    pub(crate) fn measure(via: SocketAddr, seconds: u32, more: &[&str]) -> f64 {
        let (port, seconds) = (via.port().to_string(), seconds.to_string());
        let mut args = vec!["-c", "127.0.0.1", "-p", &port, "-t", &seconds, "-J"];
        args.extend_from_slice(more);
        let report = succeed("iperf3", &args, Duration::from_secs(60));
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap_or_default()
    }
}
