//! Two network namespaces: the one that the test runs in, and one beyond a link that loses packets.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::tools::{program, succeed};
use super::until::{secs, until};

/// This side's address on the bad link.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
/// This side's address on a good link beside it.
pub(crate) const HERE_CLEAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 1));
/// The other side's.
pub(crate) const THERE_CLEAN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 1, 2));

/// Set for a test that was started again in namespaces of its own.
const INSIDE: &str = "NODEPASS_TEST_INSIDE";

/// Runs the ignored test `name` of this program in a new network namespace. `false`, after saying
/// so, where none may be made.
pub(crate) fn run_inside(name: &str, limit: Duration) -> bool {
    let may = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let mut trial = Command::new("unshare");
    trial.args(["-n", "ip", "tuntap", "add", "mode", "tun", "name", "np"]);
    if !may(&mut trial) {
        eprintln!("not run: this user may not make network namespaces and devices in them");
        return false;
    }
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("-n").arg(test);
    command.args(["--ignored", "--exact", name, "--nocapture"]);
    let mut child = command.env(INSIDE, "1").spawn().unwrap();
    let status = until(name, limit, || child.try_wait().unwrap());
    assert!(status.success(), "{name}: {status}");
    true
}

/// Whether [`run_inside`] started this.
pub(crate) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// The other namespace and the links to it. They end with this.
#[derive(Debug)]
pub(crate) struct Lossy {
    /// Keeps the namespace.
    holder: Child,
    link: Child,
}

impl Lossy {
    /// Makes it, with a link that loses nothing.
    pub(crate) fn make() -> Self {
        let mut holder = Command::new("unshare");
        // It ends with this process, whatever becomes of that: then nobody can write to it.
        let holder = holder.args(["-n", "cat"]).stdin(Stdio::piped());
        let holder = holder.spawn().unwrap();
        let pid = holder.id();
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        until("another namespace", secs(10), || {
            let theirs = namespace(&pid.to_string())?;
            (Some(theirs) != namespace("self")).then_some(())
        });
        let script = format!("{}/tests/support/lossy_link.py", env!("CARGO_MANIFEST_DIR"));
        let mut link = Command::new(program("python3"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let mut says = BufReader::new(link.stdout.take().unwrap());
        says.read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let lossy = Self { holder, link };
        lossy.connect();
        lossy
    }

    fn connect(&self) {
        let pid = self.holder.id();
        for here in [
            "link set lo up".to_owned(),
            format!("link set npb netns {pid}"),
            "addr add 10.9.0.1/24 dev npa".to_owned(),
            "link set npa up".to_owned(),
            format!("link add npc type veth peer name npd netns {pid}"),
            "addr add 10.9.1.1/24 dev npc".to_owned(),
            "link set npc up".to_owned(),
        ] {
            let words: Vec<&str> = here.split(' ').collect();
            succeed("ip", &words, secs(10));
        }
        for there in [
            "link set lo up",
            "addr add 10.9.0.2/24 dev npb",
            "link set npb up",
            "addr add 10.9.1.2/24 dev npd",
            "link set npd up",
        ] {
            let enter = self.there();
            let mut words: Vec<&str> = enter[1..].iter().map(String::as_str).collect();
            words.push("ip");
            words.extend(there.split(' '));
            succeed("nsenter", &words, secs(10));
        }
    }

    /// What starts a program on the other side.
    pub(crate) fn there(&self) -> [String; 2] {
        let net = format!("--net=/proc/{}/ns/net", self.holder.id());
        ["nsenter".to_owned(), net]
    }

    /// From now on so many of a hundred packets are lost, and each takes so long one way.
    pub(crate) fn behave(&mut self, percent: u8, delay: Duration) {
        // In one piece: the other side takes what it reads for a line.
        let line = format!("{percent} {}\n", delay.as_secs_f32());
        let pipe = self.link.stdin.as_mut().unwrap();
        pipe.write_all(line.as_bytes()).unwrap();
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        for child in [&mut self.link, &mut self.holder] {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
