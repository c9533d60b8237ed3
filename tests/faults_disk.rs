//! A master whose state cannot be written: a full disk, one that became read-only, and a directory
//! that it may no longer change (`rest.md` §5).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::api::id;
use crate::support::binary::Process;
use crate::support::master::{self, Master, SERVER};
use crate::support::scratch::Scratch;
use crate::support::tools::program;
use crate::support::until::{secs, until};

/// How a disk is made unfit for writing, and fit again.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Full,
    ReadOnly,
}

/// A master with a small disk of its own, in a mount namespace of its own.
struct OnDisk {
    master: Master,
    mount: PathBuf,
}

/// `None`, after saying so, where namespaces may not be made.
fn on_small_disk() -> Option<OnDisk> {
    let mut trial = Command::new("unshare");
    trial.args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]);
    if !trial.output().is_ok_and(|output| output.status.success()) {
        eprintln!("not run: this user may not mount a file system of its own");
        return None;
    }
    let scratch = Scratch::new();
    let mount = scratch.path().to_owned();
    let script = format!(
        "mount -t tmpfs -o size=64k,mode=0700 none {} && exec \"$@\"",
        mount.display()
    );
    let under = ["unshare", "-m", "sh", "-c", &script, "sh"];
    let master = master::Setup::default().under(under).start_in(scratch);
    Some(OnDisk { master, mount })
}

impl OnDisk {
    fn ballast(&self) -> PathBuf {
        self.master.state().with_file_name("ballast")
    }

    /// Runs a command where the master's mounts are, with `$1` for the directory.
    fn inside(&self, script: &str) {
        let target = format!("--target={}", self.master.process.id());
        let status = Command::new(program("nsenter"))
            .args([&target, "--mount", "sh", "-c", script, "sh"])
            .arg(&self.mount)
            .status();
        assert!(status.unwrap().success(), "{script}");
    }

    fn begin(&self, trouble: Trouble) {
        match trouble {
            Trouble::Full => {
                // Written until there is no room for one more byte.
                std::fs::write(self.ballast(), vec![0; 1 << 20]).unwrap_err();
            }
            // The lock on the state file is open for writing, which keeps the mount itself as it is.
            Trouble::ReadOnly => {
                self.inside("mount --bind $1 $1 && mount -o remount,bind,ro $1");
            }
        }
    }

    fn end(&self, trouble: Trouble) {
        match trouble {
            Trouble::Full => std::fs::remove_file(self.ballast()).unwrap(),
            Trouble::ReadOnly => self.inside("umount $1"),
        }
    }
}

fn changes_are_refused_until_there_is_room(trouble: Trouble) {
    let Some(mut disk) = on_small_disk() else {
        return;
    };
    let api = &disk.master.api;
    let first = api.create_id(SERVER);
    api.until_status(&first, "running");
    api.patch(&first, &json!({ "alias": "before" }));
    let before = disk.master.saved();
    let key = before["master"]["key"].clone();

    disk.begin(trouble);
    let body = json!({ "url": SERVER }).to_string();
    for _ in 0..10 {
        let answer = api.call("POST", "/instances", &body).expect(500);
        let text = answer.json()["error"].as_str().unwrap().to_owned();
        let expected = match trouble {
            Trouble::Full => "no space left on device",
            Trouble::ReadOnly => "read-only file system",
        };
        assert!(text.starts_with("Failed to save state: "), "{text}");
        assert!(text.to_lowercase().contains(expected), "{text}");
    }
    let path = format!("/instances/{first}");
    api.call("PATCH", &path, &json!({ "alias": "after" }).to_string())
        .expect(500);
    api.call("DELETE", &path, "").expect(500);
    api.call("POST", "/info", &json!({ "alias": "after" }).to_string())
        .expect(500);
    // Nothing was half done: what is shown is what is on disk, and it still runs.
    assert_eq!(api.list().len(), 1);
    assert_eq!(api.instance(&first)["alias"], "before");
    api.until_status(&first, "running");
    assert_eq!(disk.master.saved(), before);
    // What needs no disk works.
    api.act(&first, "restart");
    api.until_status(&first, "running");
    complains_once(&disk.master.process);

    disk.end(trouble);
    api.patch(&first, &json!({ "alias": "after" }));
    let second = id(&api.call("POST", "/instances", &body).expect(201).json());
    disk.master
        .process
        .line_with(&["state: saved again"], secs(10));
    let after = disk.master.saved();
    assert_eq!(after["master"]["key"], key);
    assert_eq!(after["instances"][0]["alias"], "after");
    assert_eq!(after["instances"][1]["id"], second.as_str());
    assert!(api.list().len() == 2);
    disk.master.stop();
}

#[test]
fn on_a_full_disk_changes_are_refused_until_there_is_room() {
    changes_are_refused_until_there_is_room(Trouble::Full);
}

#[test]
fn on_a_disk_that_became_read_only_changes_are_refused_until_it_is_writable() {
    changes_are_refused_until_there_is_room(Trouble::ReadOnly);
}

/// However many changes it refused.
fn complains_once(master: &Process) {
    master.line_with(&["ERROR", "state: cannot be saved"], secs(10));
    let complaints = master.complaints();
    assert_eq!(complaints.len(), 1, "{complaints:#?}");
}

/// A service that runs as an ordinary user, whose directory somebody closed.
#[test]
fn in_a_directory_that_was_closed_changes_are_refused_until_it_is_open() {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root can start a master as another user");
        return;
    }
    let (scratch, home) = (Scratch::new(), Scratch::new());
    for dir in [&scratch, &home] {
        std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let copy = home.path().join("nodepass");
    let copied = Command::new("cp")
        .arg(crate::support::binary::path())
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let user = NOBODY.to_string();
    let as_nobody = ["--reuid", &user, "--regid", &user, "--clear-groups"];
    let under = std::iter::once("setpriv").chain(as_nobody);
    let setup = master::Setup::default().under(under).program(copy);
    let mut master = setup.start_in(scratch);
    let first = master.api.create_id(SERVER);
    let before = master.saved();

    set_mode(master.scratch.path(), 0o500);
    let path = format!("/instances/{first}");
    for _ in 0..5 {
        let body = json!({ "alias": "after" }).to_string();
        let answer = master.api.call("PATCH", &path, &body).expect(500);
        assert!(answer.text().to_lowercase().contains("permission denied"));
    }
    assert_eq!(master.saved(), before);
    complains_once(&master.process);

    set_mode(master.scratch.path(), 0o700);
    until("a change is saved", secs(10), || {
        let body = json!({ "alias": "after" }).to_string();
        let answer = master.api.call("PATCH", &path, &body);
        (answer.status == 200).then_some(())
    });
    assert_eq!(master.saved()["instances"][0]["alias"], "after");
    master.stop();
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
