//! Where the state file is, who may have it, and what `nodepass key` prints of it (`rest.md` §5).

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::support::api::{PATIENCE, until_open};
use crate::support::binary::{self, Launch, Process};
use crate::support::kernel::{is_listening, until_listening};
use crate::support::master::{
    Master, SERVER, STATE, Setup, files, mode, read_json, refuses, server,
};
use crate::support::ports::Port;
use crate::support::scratch::Scratch;
use crate::support::tools::succeed;
use crate::support::until::{secs, until};

#[test]
fn a_second_master_on_the_same_file_refuses_and_touches_nothing() {
    let master = Master::start();
    let port = Port::reserve();
    let id = master.api.create_id(&server(&port));
    until_listening(port.addr());
    let before = files(master.scratch.path());
    let elsewhere = Port::reserve();
    let second = Setup::default().launch(&elsewhere, &master.scratch);
    refuses(&second.finish(), &[STATE]);
    assert_eq!(files(master.scratch.path()), before);
    assert!(!is_listening(elsewhere.addr()));
    // By another name of the same directory too.
    let (link, other) = (Scratch::new(), Port::reserve());
    std::os::unix::fs::symlink(master.scratch.path(), link.path().join("link")).unwrap();
    let url = format!(
        "master://{}?state={}/link/{STATE}",
        other.addr(),
        link.path().display()
    );
    refuses(&Launch::new([url]).finish(), &[]);
    assert_eq!(master.api.instance(&id)["status"], "running");
}

#[test]
fn an_address_in_use_is_refused_before_anything_starts() {
    let mut master = Master::start();
    let port = Port::reserve();
    master.api.create(&server(&port));
    until_listening(port.addr());
    master.stop();
    let before = files(master.scratch.path());
    let holder = std::net::TcpListener::bind(master.port.addr()).unwrap();
    let ended = master.launch.finish();
    refuses(&ended, &[]);
    assert!(
        !ended.stdout.contains(&port.number().to_string()),
        "an instance was started: {ended:?}"
    );
    assert_eq!(files(master.scratch.path()), before);
    drop(holder);
    master.restart();
    until_listening(port.addr());
}

#[test]
fn a_fresh_master_that_cannot_listen_leaves_nothing() {
    let (scratch, port) = (Scratch::new(), Port::reserve());
    let _holder = std::net::TcpListener::bind(port.addr()).unwrap();
    refuses(&Setup::default().launch(&port, &scratch).finish(), &[]);
    let left: Vec<_> = files(scratch.path())
        .into_iter()
        .filter(|(_, content)| !content.is_empty())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_place_that_cannot_be_written_is_refused_with_its_name() {
    let scratch = Scratch::new();
    scratch.write("file", "");
    for state in ["file/nodepass.json", "file/deep/er/nodepass.json"] {
        let port = Port::reserve();
        let path = scratch.path().join(state);
        let url = format!("master://{}?state={}", port.addr(), path.display());
        refuses(&Launch::new([url]).finish(), &["nodepass.json"]);
    }
    // A directory in its place.
    let port = Port::reserve();
    std::fs::create_dir(scratch.path().join("dir.json")).unwrap();
    let url = format!(
        "master://{}?state={}",
        port.addr(),
        scratch.path().join("dir.json").display()
    );
    refuses(&Launch::new([url]).finish(), &["dir.json"]);
}

/// Starts a master without `state=`, waits for `file` and ends it.
fn keeps_its_state_in(launch: &Launch, port: &Port, file: &Path) {
    let process = launch.start();
    until_open(port.addr(), PATIENCE);
    until(&format!("{}", file.display()), secs(20), || {
        read_json(file)?["master"]["key"].as_str().map(drop)
    });
    assert_eq!(mode(file), 0o600);
    drop(process);
}

#[test]
fn where_the_file_is() {
    let scratch = Scratch::new();
    let dir = scratch.path().display().to_string();
    let in_dir = |name: &str| format!("{dir}/{name}");
    let (by_url, by_env, systemd) = (
        in_dir("deep/url.json"),
        in_dir("env.json"),
        in_dir("systemd"),
    );
    std::fs::create_dir(&systemd).unwrap();
    let port = Port::reserve();
    let master = |state: &str| Launch::new([format!("master://{}{state}", port.addr())]);
    // The URL before the variable, the variable before systemd's directory.
    let launch = master(&format!("?state={by_url}"))
        .env("NP_STATE_FILE", by_env.as_str())
        .env("STATE_DIRECTORY", systemd.as_str());
    keeps_its_state_in(&launch, &port, Path::new(&by_url));
    assert!(!Path::new(&by_env).exists());
    let launch = master("")
        .env("NP_STATE_FILE", by_env.as_str())
        .env("STATE_DIRECTORY", systemd.as_str());
    keeps_its_state_in(&launch, &port, Path::new(&by_env));
    let launch = master("").env("STATE_DIRECTORY", systemd.as_str());
    keeps_its_state_in(&launch, &port, &Path::new(&systemd).join(STATE));
}

/// Another process copies it: a file that is open for writing here when another test starts a
/// program cannot be run as long as that program has not closed it.
fn copy_binary_to(place: &Path) {
    let (from, to) = (binary::path(), place.display().to_string());
    succeed("cp", &[from.display().to_string(), to], secs(60));
}

/// The binary with an empty environment, as nobody in particular where that is possible.
fn as_nobody(home: &Path, args: &[&str], env: &[(&str, &Path)]) -> Command {
    const NOBODY: u32 = 65_534;
    let mut command = Command::new(home.join("nodepass"));
    command.args(args).env_clear().envs(env.iter().copied());
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
        std::os::unix::fs::chown(home, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    command
}

#[test]
fn without_root_it_is_in_the_home_directory() {
    for xdg in [false, true] {
        let (scratch, port) = (Scratch::new(), Port::reserve());
        let home = scratch.path();
        copy_binary_to(&home.join("nodepass"));
        let url = format!("master://{}", port.addr());
        let xdg_home = home.join("xdg");
        let mut env = vec![("HOME", home)];
        if xdg {
            env.push(("XDG_STATE_HOME", &xdg_home));
        }
        let process = Process::start(as_nobody(home, &[&url], &env), "as nobody");
        until_open(port.addr(), PATIENCE);
        let dir = if xdg {
            xdg_home.clone()
        } else {
            home.join(".local/state")
        };
        let file = dir.join("nodepass").join(STATE);
        let key = until(&format!("{}", file.display()), secs(20), || {
            read_json(&file)?["master"]["key"]
                .as_str()
                .map(str::to_owned)
        });
        assert_eq!(mode(&file), 0o600);
        drop(process);
        // `nodepass key` looks in the same place.
        let mut printed = Process::start(as_nobody(home, &["key"], &env), "key");
        assert_eq!(printed.wait(secs(20)).code(), Some(0));
        assert_eq!(printed.lines(), [key]);
    }
}

#[test]
fn without_permission_it_refuses() {
    if !rustix::process::geteuid().is_root() {
        // Then the next test with a directory of mode 0500 says the same.
        let scratch = Scratch::new();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o500)).unwrap();
        let port = Port::reserve();
        refuses(&Setup::default().launch(&port, &scratch).finish(), &[STATE]);
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        return;
    }
    let (home, closed, port) = (Scratch::new(), Scratch::new(), Port::reserve());
    copy_binary_to(&home.path().join("nodepass"));
    let state = closed.path().join(STATE);
    let url = format!("master://{}?state={}", port.addr(), state.display());
    let mut process = Process::start(as_nobody(home.path(), &[&url], &[]), "as nobody");
    assert_eq!(process.wait(secs(20)).code(), Some(1));
    let lines = process.lines_with(&["error: "]);
    assert!(
        lines.len() == 1 && lines[0].contains(STATE),
        "{:?}",
        process.lines()
    );
    assert!(!is_listening(port.addr()));
}

#[test]
fn a_gob_file_beside_the_program_is_reported_once() {
    for place in ["nodepass.gob", "gob/nodepass.gob"] {
        let (scratch, port) = (Scratch::new(), Port::reserve());
        let program = scratch.path().join("nodepass");
        copy_binary_to(&program);
        std::fs::create_dir(scratch.path().join("gob")).unwrap();
        scratch.write(place, "gob");
        let state = scratch.path().join(STATE);
        let mut command = Command::new(&program);
        command.arg(format!(
            "master://{}?state={}",
            port.addr(),
            state.display()
        ));
        let process = Process::start(command, "beside a gob file");
        process.line_with(&["WARN", "nodepass.gob"], secs(20));
        until_open(port.addr(), PATIENCE);
        assert_eq!(process.lines_with(&["nodepass.gob"]).len(), 1, "{place}");
        assert_eq!(std::fs::read(scratch.path().join(place)).unwrap(), b"gob");
    }
}

#[test]
fn the_key_is_printed_when_it_is_made_and_at_no_other_time() {
    let mut master = Master::start();
    let key = master.api.key.clone();
    let created = master
        .process
        .line_with(&["INFO", "API Key created: "], secs(20));
    assert!(
        created.ends_with(&format!("API Key created: {key}")),
        "{created}"
    );
    master.process.only_line_with(&[&key]);
    master.stop_and_restart();
    master.api.create(SERVER);
    assert!(master.process.lines_with(&[&key]).is_empty());
    let printed = Launch::new(["key".to_owned(), master.state().display().to_string()]).finish();
    assert_eq!(
        (printed.code, printed.stdout),
        (Some(0), format!("{key}\n"))
    );
    let by_env = Launch::new(["key"])
        .env("NP_STATE_FILE", master.state().display().to_string())
        .finish();
    assert_eq!((by_env.code, by_env.stdout), (Some(0), format!("{key}\n")));
}

#[test]
fn a_key_that_cannot_be_printed_is_an_error() {
    let scratch = Scratch::new();
    let broken = scratch.write("broken.json", "{").display().to_string();
    for path in [format!("{}/none.json", scratch.path().display()), broken] {
        refuses(&Launch::new(["key".to_owned(), path]).finish(), &[".json"]);
    }
    assert_eq!(files(scratch.path()).len(), 1, "a file was made");
}
