//! Log lines (`rest.md` §6): `2006-01-02 15:04:05.000  INFO  message key=value`.
//!
//! A `tracing` subscriber of our own, because each instance has its own level and its lines go
//! either to standard output or to the master. Spans are not kept: what a line needs is in it.
//! Bytes of peers end up in messages; so control characters are escaped, and no peer can forge a
//! line or move the terminal's cursor.
//!
//! Local time comes from `tz-rs`: it reads the system's zone files in safe Rust, follows the
//! changes of summer time, and brings no dependency (`time` refuses once there are threads,
//! `chrono` and `jiff` are several times its size).

mod print;

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::config::LogLevel;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Metadata, Subscriber};
use tz::{DateTime, TimeZone};

pub use self::print::flush;

use self::print::print;

/// The target of telemetry records: `tracing::info!(target: EVENT, "CHECK_POINT|…")`. They are shown
/// at the levels `event` and `debug`.
pub const EVENT: &str = "event";

/// The longest line, in bytes, its time and level included. What is cut ends with `…`.
pub const LINE: usize = 16 * 1024;

/// Room for time, level, colour and the ellipsis.
const FRAME: usize = 64;

/// What a line is about, as printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Per-connection lines.
    Debug,
    /// State changes a user cares about.
    Info,
    /// Unusual but working.
    Warn,
    /// Broken.
    Error,
    /// Telemetry.
    Event,
}

impl Level {
    /// The word in the line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Event => "EVENT",
        }
    }

    /// The ANSI colour code.
    const fn colour(self) -> u8 {
        match self {
            Self::Debug => 34,
            Self::Info => 32,
            Self::Warn => 33,
            Self::Error => 31,
            Self::Event => 36,
        }
    }

    /// `None` for what is never shown.
    fn of(metadata: &Metadata<'_>) -> Option<Self> {
        if metadata.target() == EVENT {
            return Some(Self::Event);
        }
        match *metadata.level() {
            tracing::Level::ERROR => Some(Self::Error),
            tracing::Level::WARN => Some(Self::Warn),
            tracing::Level::INFO => Some(Self::Info),
            tracing::Level::DEBUG => Some(Self::Debug),
            tracing::Level::TRACE => None,
        }
    }

    const fn shown_at(self, chosen: LogLevel) -> bool {
        match chosen {
            LogLevel::None => false,
            LogLevel::Debug => true,
            LogLevel::Info => matches!(self, Self::Info | Self::Warn | Self::Error),
            LogLevel::Warn => matches!(self, Self::Warn | Self::Error),
            LogLevel::Error => matches!(self, Self::Error),
            LogLevel::Event => matches!(self, Self::Event | Self::Error),
        }
    }
}

/// One log line, without its line feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Local time, `2006-01-02 15:04:05.000`.
    pub time: String,
    /// The level.
    pub level: Level,
    /// The message and its fields; no control characters, at most [`LINE`] bytes less the rest.
    pub message: String,
}

impl Line {
    /// The line as printed, with the level in its ANSI colour or not.
    #[must_use]
    pub fn render(&self, coloured: bool) -> String {
        let (time, level, message) = (&self.time, self.level.as_str(), &self.message);
        if coloured {
            let colour = self.level.colour();
            format!("{time}  \x1b[{colour}m{level}\x1b[0m  {message}")
        } else {
            format!("{time}  {level}  {message}")
        }
    }
}

/// Where lines go.
pub trait Sink: Send + Sync + 'static {
    /// Takes one line. Called from any task, so it must not block for long.
    fn line(&self, line: &Line);
}

/// A dispatcher that gives the lines of `level` to `sink`.
#[must_use]
pub fn dispatch(level: LogLevel, sink: Arc<dyn Sink>) -> Dispatch {
    if level == LogLevel::None {
        return Dispatch::none();
    }
    Dispatch::new(Log { level, sink })
}

/// A dispatcher that prints the lines of `level` to standard output, coloured if that is a terminal.
/// Nobody waits for that; [`flush`] does.
#[must_use]
pub fn stdout(level: LogLevel) -> Dispatch {
    dispatch(level, Arc::new(Stdout))
}

/// Whether lines are printed in colour.
static COLOURED: LazyLock<bool> = LazyLock::new(|| io::stdout().is_terminal());

/// Prints the line of one instance of many to standard output, ` [<id>]` appended.
pub fn echo(line: &Line, id: &str) {
    print(&format!("{} [{id}]\n", line.render(*COLOURED)));
}

struct Stdout;

impl Sink for Stdout {
    fn line(&self, line: &Line) {
        let mut text = line.render(*COLOURED);
        text.push('\n');
        print(&text);
    }
}

/// The line that stands for those which standard output did not take.
fn lost(count: u64) -> String {
    let line = Line {
        time: local_time(SystemTime::now()),
        level: Level::Warn,
        message: format!("{count} log lines were lost, standard output is not read"),
    };
    line.render(*COLOURED) + "\n"
}

struct Log {
    level: LogLevel,
    sink: Arc<dyn Sink>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && Level::of(metadata).is_some_and(|level| level.shown_at(self.level))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            LogLevel::None => LevelFilter::OFF,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info | LogLevel::Event => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error => LevelFilter::ERROR,
        })
    }

    fn event(&self, event: &Event<'_>) {
        let Some(level) = Level::of(event.metadata()) else {
            return;
        };
        let mut text = Text::default();
        event.record(&mut text);
        self.sink.line(&Line {
            time: local_time(SystemTime::now()),
            level,
            message: text.finish(),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message and the fields of one event, escaped and bounded.
#[derive(Default)]
struct Text {
    message: Clean,
    fields: Clean,
}

impl Text {
    fn finish(self) -> String {
        let mut line = self.message;
        line.push(&self.fields.text);
        let mut text = line.text;
        if line.cut || self.fields.cut {
            text.push('…');
        }
        text
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // `Clean` takes everything; an error can only come from the value's own formatting.
        let written = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
        if written.is_err() {
            self.fields.push("?");
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// Text without control characters, of bounded length.
#[derive(Default)]
struct Clean {
    text: String,
    cut: bool,
}

impl Clean {
    fn push(&mut self, text: &str) {
        for char in text.chars() {
            if self.cut || self.text.len() + char.len_utf8() > LINE - FRAME {
                self.cut = true;
                return;
            }
            if hostile(char) {
                self.text.extend(char.escape_default());
            } else {
                self.text.push(char);
            }
        }
    }
}

impl fmt::Write for Clean {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text);
        Ok(())
    }
}

/// Characters that could end a line, drive a terminal or reorder what is shown.
fn hostile(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `2006-01-02 15:04:05.000` in the zone of `TZ` or of the system; UTC if neither can be read.
fn local_time(now: SystemTime) -> String {
    static ZONE: LazyLock<TimeZone> = LazyLock::new(|| {
        let zone = match std::env::var("TZ") {
            Ok(name) if !name.is_empty() => TimeZone::from_posix_tz(&name),
            _ => TimeZone::local(),
        };
        zone.unwrap_or_else(|_| TimeZone::utc())
    });
    civil(now, &ZONE)
}

fn civil(now: SystemTime, zone: &TimeZone) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let (nanos, utc) = (since.subsec_nanos(), TimeZone::utc());
    let time = DateTime::from_timespec(seconds, nanos, zone.as_ref())
        .or_else(|_| DateTime::from_timespec(seconds, nanos, utc.as_ref()));
    let Ok(t) = time else {
        return String::from("1970-01-01 00:00:00.000");
    };
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
        t.year(),
        t.month(),
        t.month_day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.nanoseconds() / 1_000_000
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tracing::{debug, error, info, trace, warn};

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<Line>>);

    impl Sink for Kept {
        fn line(&self, line: &Line) {
            self.0.lock().unwrap().push(line.clone());
        }
    }

    fn lines(level: LogLevel, log: impl FnOnce()) -> Vec<Line> {
        let kept = Arc::new(Kept::default());
        tracing::dispatcher::with_default(&dispatch(level, kept.clone()), log);
        std::mem::take(&mut *kept.0.lock().unwrap())
    }

    fn levels(level: LogLevel) -> Vec<&'static str> {
        let all = || {
            trace!("t");
            debug!("d");
            info!("i");
            warn!("w");
            error!("e");
            info!(target: EVENT, "CHECK_POINT|");
        };
        lines(level, all)
            .iter()
            .map(|line| line.level.as_str())
            .collect()
    }

    #[test]
    fn each_level_shows_its_lines() {
        assert_eq!(levels(LogLevel::None), [""; 0]);
        let all = ["DEBUG", "INFO", "WARN", "ERROR", "EVENT"];
        assert_eq!(levels(LogLevel::Debug), all);
        assert_eq!(levels(LogLevel::Info), ["INFO", "WARN", "ERROR"]);
        assert_eq!(levels(LogLevel::Warn), ["WARN", "ERROR"]);
        assert_eq!(levels(LogLevel::Error), ["ERROR"]);
        assert_eq!(levels(LogLevel::Event), ["ERROR", "EVENT"]);
    }

    #[test]
    fn a_line_has_the_form_that_dashboards_read() {
        let line = Line {
            time: civil(
                UNIX_EPOCH + Duration::from_millis(1_136_214_245_678),
                &TimeZone::utc(),
            ),
            level: Level::Warn,
            message: String::from("session ended peer=10.0.0.1:7"),
        };
        let plain = "2006-01-02 15:04:05.678  WARN  session ended peer=10.0.0.1:7";
        assert_eq!(line.render(false), plain);
        let coloured =
            "2006-01-02 15:04:05.678  \x1b[33mWARN\x1b[0m  session ended peer=10.0.0.1:7";
        assert_eq!(line.render(true), coloured);
    }

    #[test]
    fn local_time_follows_the_zone_and_its_summer_time() {
        let berlin = TimeZone::from_posix_tz("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let winter = UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        let summer = winter + Duration::from_secs(181 * 86_400);
        assert_eq!(civil(winter, &berlin), "2026-01-01 01:00:00.000");
        assert_eq!(civil(summer, &berlin), "2026-07-01 02:00:00.000");
    }

    #[test]
    fn fields_follow_the_message() {
        let why = fmt::Error;
        let error: &dyn std::error::Error = &why;
        let got = lines(LogLevel::Info, || {
            info!(n = 3, name = "x y", who = %"10.0.0.1", error, "dialled");
        });
        let error = why.to_string();
        let expected = format!("dialled n=3 name=\"x y\" who=10.0.0.1 error={error}");
        assert_eq!(got[0].message, expected);
    }

    #[test]
    fn a_peer_cannot_forge_a_line() {
        let evil = "x\n2006-01-02 15:04:05.000  ERROR  forged\r\x1b[2J\u{85}\u{202e}";
        let got = lines(LogLevel::Info, || info!(sni = %evil, "{evil}"));
        assert_eq!(got.len(), 1);
        assert!(!got[0].message.contains(hostile), "{}", got[0].message);
        assert!(got[0].message.starts_with(r"x\n2006"));
    }

    #[test]
    fn a_line_is_bounded_and_says_that_it_was_cut() {
        let long = "ä".repeat(LINE);
        let got = lines(LogLevel::Info, || info!(more = %long, "{long}"));
        let rendered = got[0].render(true);
        assert!(rendered.len() <= LINE && rendered.len() > LINE - 2 * FRAME);
        assert!(rendered.ends_with('…'));
        let fits = lines(LogLevel::Info, || info!("{}", "a".repeat(LINE - FRAME)));
        assert!(!fits[0].message.ends_with('…'));
    }
}
