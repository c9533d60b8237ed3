//! A running master, its state file and its restarts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::api::{Api, PATIENCE, until_open};
use super::binary::{Finished, Launch, Process};
use super::ports::Port;
use super::scratch::Scratch;
use super::until::{secs, until};

/// A server that can always start, with ports that the system picks.
pub(crate) const SERVER: &str = "server://key@127.0.0.1:0/127.0.0.1:0?mode=1";

/// How to start one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    prefix: String,
    params: String,
    env: Vec<(String, String)>,
    under: Vec<String>,
    program: Option<PathBuf>,
}

impl Setup {
    /// With this path in its URL.
    pub(crate) fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// With one more parameter, `name=value`.
    pub(crate) fn param(mut self, param: &str) -> Self {
        self.params = format!("{}&{param}", self.params);
        self
    }

    /// With an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Started by another program, see [`Launch::under`].
    pub(crate) fn under<S: Into<String>>(mut self, program: impl IntoIterator<Item = S>) -> Self {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// A copy of the binary instead.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Starts it in a directory of its own.
    pub(crate) fn start(self) -> Master {
        self.start_in(Scratch::new())
    }

    /// Starts it with what `scratch` holds.
    pub(crate) fn start_in(self, scratch: Scratch) -> Master {
        let port = Port::reserve();
        let launch = self.launch(&port, &scratch);
        let prefix = self.prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { "/api" } else { prefix };
        let api = Api {
            addr: port.addr(),
            base: format!("{prefix}/v1"),
            key: String::new(),
            tls: self.params.contains("&tls=1") || self.params.contains("&tls=2"),
        };
        let process = launch.start();
        let mut master = Master {
            process,
            launch,
            port,
            scratch,
            api,
            has_mounts: self.under.first().is_some_and(|it| it == "unshare"),
        };
        master.until_ready();
        master
    }

    /// How it is started at `port` with the state in `scratch`.
    pub(crate) fn launch(&self, port: &Port, scratch: &Scratch) -> Launch {
        let state = scratch.path().join(STATE);
        let url = format!(
            "master://{}{}?state={}{}",
            port.addr(),
            self.prefix,
            state.display(),
            self.params
        );
        let set = |launch: Launch, (name, value): &(String, String)| launch.env(name, value);
        let launch = self.env.iter().fold(Launch::new([url]), set);
        let launch = launch.under(self.under.clone());
        match &self.program {
            Some(program) => launch.program(program.clone()),
            None => launch,
        }
    }
}

/// The name of the state file in its directory.
pub(crate) const STATE: &str = "nodepass.json";

/// A master that answers.
#[derive(Debug)]
pub(crate) struct Master {
    /// The process.
    pub(crate) process: Process,
    /// How it was started.
    pub(crate) launch: Launch,
    /// Where it listens, also while it does not run.
    pub(crate) port: Port,
    /// Its directory.
    pub(crate) scratch: Scratch,
    /// Its API.
    pub(crate) api: Api,
    /// It sees mounts that nobody else sees.
    has_mounts: bool,
}

impl Master {
    /// One with nothing but the defaults.
    pub(crate) fn start() -> Self {
        Setup::default().start()
    }

    /// The state file, as the process sees it, which may have mounts of its own.
    pub(crate) fn state(&self) -> PathBuf {
        let state = self.scratch.path().join(STATE);
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        match state.strip_prefix("/") {
            Ok(inside) if self.has_mounts => root.join(inside),
            _ => state,
        }
    }

    /// What the state file says.
    pub(crate) fn saved(&self) -> Value {
        read_json(&self.state()).expect("a state file")
    }

    /// Ends it with SIGKILL and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.process.kill();
        self.restart();
    }

    /// Lets it end properly and starts it again.
    pub(crate) fn stop_and_restart(&mut self) {
        self.stop();
        self.restart();
    }

    /// Lets it end properly.
    pub(crate) fn stop(&mut self) {
        self.process.terminate();
        let status = self.process.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "a graceful stop");
    }

    /// Starts it again after its end.
    pub(crate) fn restart(&mut self) {
        self.process = self.launch.start();
        self.until_ready();
    }

    /// Waits until it answers with the key that it has now.
    fn until_ready(&mut self) {
        until_open(self.port.addr(), PATIENCE);
        let state = self.state();
        self.api.key = until("the key is in the state file", secs(20), || {
            let key = read_json(&state)?["master"]["key"].as_str()?.to_owned();
            (!key.is_empty()).then_some(key)
        });
        self.api.get("/info");
    }
}

/// What a JSON file says, if it is one.
pub(crate) fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// The permission bits of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Fails unless this is the object of `rest.md` §2: members, order and types.
pub(crate) fn expect_object(text: &str) {
    const MEMBERS: [&str; 17] = [
        "id", "alias", "type", "status", "url", "config", "restart", "meta", "mode", "ping",
        "pool", "tcps", "udps", "tcprx", "tcptx", "udprx", "udptx",
    ];
    assert!(text.starts_with("{\"id\":\""), "{text}");
    let object: Value = serde_json::from_str(text).unwrap();
    assert_eq!(object.as_object().unwrap().len(), MEMBERS.len(), "{text}");
    let mut from = 0;
    for member in MEMBERS {
        let name = format!("\"{member}\":");
        // A name may also stand in a string or in `meta`: the order is that of the first ones.
        let at = text[from..].find(&name);
        from += at.unwrap_or_else(|| panic!("{member} is missing or out of order: {text}"));
    }
    for member in ["id", "alias", "type", "status", "url", "config"] {
        assert!(object[member].is_string(), "{member}: {text}");
    }
    assert!(object["restart"].is_boolean(), "{text}");
    for member in &MEMBERS[8..] {
        assert!(object[*member].is_u64(), "{member}: {text}");
    }
    let meta = object["meta"].as_object().unwrap();
    assert_eq!(meta.len(), 2, "{text}");
    for member in ["sid", "type", "alias"] {
        assert!(meta["peer"][member].is_string(), "{text}");
    }
    assert_eq!(meta["peer"].as_object().unwrap().len(), 3, "{text}");
    assert!(meta["tags"].is_object(), "{text}");
}

/// A server at a port that stays ours, for users at one that the system picks.
pub(crate) fn server(port: &Port) -> String {
    format!("server://key@{}/127.0.0.1:0?mode=1", port.addr())
}

/// A process that must refuse to run: exit 1, one line.
pub(crate) fn refuses(ended: &Finished, words: &[&str]) {
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<_> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    assert!(lines[0].starts_with("error: "), "{ended:?}");
    for word in words {
        assert!(lines[0].contains(word), "no {word} in {ended:?}");
    }
}

/// Every file of a directory with its content.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}
