//! The program under test as a child process.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::until::until;

/// How to start it: once, or again after it was killed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// Another program instead.
    program: Option<PathBuf>,
    /// A program that starts it, with its arguments.
    under: Vec<String>,
}

impl Launch {
    /// With these arguments.
    pub(crate) fn new<S: Into<String>>(args: impl IntoIterator<Item = S>) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self {
            args,
            ..Self::default()
        }
    }

    /// Starts the second driver, `protocol/examples/blocking`, instead.
    pub(crate) fn second_driver(mut self) -> Self {
        let program = examples().join("blocking");
        assert!(
            program.exists(),
            "{} is missing: `cargo build --examples --workspace` makes it",
            program.display()
        );
        self.program = Some(program);
        self
    }

    /// With no more than so many descriptors.
    pub(crate) fn descriptors(self, most: u32) -> Self {
        self.under(["prlimit".to_owned(), format!("--nofile={most}:{most}")])
    }

    /// Starts a copy of the binary instead.
    pub(crate) fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    /// Started by another program that becomes it, such as `prlimit`.
    pub(crate) fn under<S: Into<String>>(mut self, program: impl IntoIterator<Item = S>) -> Self {
        self.under = program.into_iter().map(Into::into).collect();
        self
    }

    /// With one more environment variable. Those of the test's own environment are not inherited
    /// if they begin with `NP_`.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Starts it.
    pub(crate) fn start(&self) -> Process {
        let mut words: Vec<OsString> = self.under.iter().map(OsString::from).collect();
        match &self.program {
            Some(program) => words.push(program.into()),
            None if self.is_other() => words.push(BUILT.into()),
            None => {
                words.extend(runner().split_whitespace().map(OsString::from));
                words.push(path().into());
            }
        }
        let mut command = Command::new(words.remove(0));
        command.args(words);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("NP_")) {
                command.env_remove(name);
            }
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        Process::start(command, &self.args.join(" "))
    }

    /// Whether `NODEPASS_ONLY` leaves it to the binary that cargo built.
    fn is_other(&self) -> bool {
        let scheme = self.args.first().and_then(|url| url.split_once("://"));
        std::env::var("NODEPASS_ONLY").is_ok_and(|only| scheme.is_none_or(|(it, _)| it != only))
    }

    /// Starts it and waits for its end.
    pub(crate) fn finish(&self) -> Finished {
        let mut process = self.start();
        let status = process.wait(Duration::from_secs(20));
        Finished {
            code: status.code(),
            stdout: process.stdout.text(),
            stderr: process.stderr.text(),
        }
    }
}

/// The binary that cargo built along with the tests.
const BUILT: &str = env!("CARGO_BIN_EXE_nodepass");

/// `NODEPASS_BIN`, else the binary that cargo built along with the tests.
pub(crate) fn path() -> PathBuf {
    std::env::var_os("NODEPASS_BIN").map_or_else(|| BUILT.into(), Into::into)
}

/// The processor that [the binary](path) is for, as Go names it: what its ELF header says.
pub(crate) fn processor() -> &'static str {
    let binary = std::fs::read(path()).unwrap();
    match binary.get(18..20) {
        Some([0x28, 0]) => "arm",
        Some([0x3E, 0]) => "amd64",
        Some([0xB7, 0]) => "arm64",
        other => panic!("a processor without a name here: {other:?}"),
    }
}

/// `NODEPASS_RUNNER`: what runs the binary on a machine that cannot, with its arguments.
fn runner() -> String {
    std::env::var("NODEPASS_RUNNER").unwrap_or_default()
}

/// Where cargo puts the examples that it builds along with the tests.
fn examples() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().with_file_name("examples")
}

/// What a process that ended has left.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// All of its standard output.
    pub(crate) stdout: String,
    /// All of its standard error.
    pub(crate) stderr: String,
}

/// A running process, killed when dropped. A failing test prints what it wrote.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    title: String,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts any program.
    pub(crate) fn start(mut command: Command, title: &str) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {title}: {error}"));
        let news = Arc::new(News::default());
        let stdout = Lines::of(child.stdout.take().unwrap(), &news);
        let stderr = Lines::of(child.stderr.take().unwrap(), &news);
        Self {
            child,
            title: title.to_owned(),
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Every line it has written to standard output and standard error so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = self.stdout.snapshot();
        lines.extend(self.stderr.snapshot());
        lines
    }

    /// The lines so far in which all of `words` occur, in lower case or not.
    pub(crate) fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let wanted = |line: &String| {
            let line = line.to_ascii_lowercase();
            words
                .iter()
                .all(|word| line.contains(&word.to_ascii_lowercase()))
        };
        self.lines().into_iter().filter(wanted).collect()
    }

    /// Waits for a line in which all of `words` occur.
    pub(crate) fn line_with(&self, words: &[&str], limit: Duration) -> String {
        self.line(words, limit, |_| true)
    }

    /// Waits for the line in which all of `words` occur, and fails if there is more than one.
    pub(crate) fn only_line_with(&self, words: &[&str]) -> String {
        self.line_with(words, Duration::from_secs(20));
        let mut lines = self.lines_with(words);
        assert_eq!(lines.len(), 1, "{lines:#?}");
        lines.remove(0)
    }

    /// Its warnings and errors so far.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut complaints = self.lines_with(&[" warn "]);
        complaints.extend(self.lines_with(&[" error "]));
        complaints
    }

    /// The same for lines that show no URL, whose parameters are words too.
    pub(crate) fn remark(&self, words: &[&str], limit: Duration) -> String {
        self.line(words, limit, |line| !line.contains("://"))
    }

    fn line(&self, words: &[&str], limit: Duration, counts: impl Fn(&String) -> bool) -> String {
        let end = Instant::now() + limit;
        loop {
            let seen = self.stdout.news.version();
            if let Some(line) = self.lines_with(words).into_iter().find(&counts) {
                return line;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "no line with {words:?} within {limit:?} from {}",
                self.title
            );
            self.stdout.news.wait(seen, left);
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.title);
        let status = until(&what, limit, || self.child.try_wait().unwrap());
        self.stdout.join();
        self.stderr.join();
        status
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Asks it to read its certificates again.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Lets it stand still until it is [thawed](Self::thaw).
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("--- {}", self.title);
            for line in self.lines() {
                eprintln!("    {line}");
            }
        }
    }
}

/// The lines of one stream, collected by a thread of their own.
#[derive(Debug)]
struct Lines {
    list: Arc<Mutex<Vec<String>>>,
    news: Arc<News>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Lines {
    fn of(stream: impl Read + Send + 'static, news: &Arc<News>) -> Self {
        let list = Arc::new(Mutex::new(Vec::new()));
        let (sink, bell) = (Arc::clone(&list), Arc::clone(news));
        let reader = thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream
                .read_until(b'\n', &mut line)
                .is_ok_and(|count| count > 0)
            {
                sink.lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).trim_end().to_owned());
                bell.ring();
                line.clear();
            }
        });
        Self {
            list,
            news: Arc::clone(news),
            reader: Some(reader),
        }
    }

    fn snapshot(&self) -> Vec<String> {
        self.list.lock().unwrap().clone()
    }

    fn text(&self) -> String {
        self.snapshot()
            .into_iter()
            .map(|line| line + "\n")
            .collect()
    }

    /// Waits until the stream has ended.
    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

/// Counts lines, and wakes whoever waits for more of them.
#[derive(Debug, Default)]
struct News {
    version: Mutex<u64>,
    changed: Condvar,
}

impl News {
    fn version(&self) -> u64 {
        *self.version.lock().unwrap()
    }

    fn ring(&self) {
        *self.version.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    fn wait(&self, seen: u64, limit: Duration) {
        let version = self.version.lock().unwrap();
        drop(
            self.changed
                .wait_timeout_while(version, limit, |version| *version == seen)
                .unwrap(),
        );
    }
}
