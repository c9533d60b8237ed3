//! What a tunnel end runs as: the `mode` parameter, and what decides when it is 0 (`config.md` §2).

use alloc::format;
use core::fmt;

use super::{ConfigError, Mode, Role, Tunnel};
use crate::terms::DataTls;

/// What a tunnel end runs as, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// A server that accepts users on its target address; the client dials.
    ServerReverse,
    /// A server that dials its targets; the client accepts users.
    ServerForward,
    /// A client alone: it accepts users on its tunnel address and dials its targets.
    SingleEnd,
    /// A client of a server, which says who accepts users.
    DualEnd,
}

impl Running {
    /// What an explicit mode means; `None` for [`Mode::Auto`].
    #[must_use]
    pub const fn explicit(role: Role, mode: Mode) -> Option<Self> {
        match (role, mode) {
            (Role::Server, Mode::One) => Some(Self::ServerReverse),
            (Role::Server, Mode::Two) => Some(Self::ServerForward),
            (Role::Client, Mode::One) => Some(Self::SingleEnd),
            (Role::Client, Mode::Two) => Some(Self::DualEnd),
            (Role::Server | Role::Client, Mode::Auto) => None,
        }
    }

    /// The run mode in force, 1 or 2, as `mode` and the master's API number it.
    #[must_use]
    pub const fn mode(self) -> u8 {
        match self {
            Self::ServerReverse | Self::SingleEnd => 1,
            Self::ServerForward | Self::DualEnd => 2,
        }
    }

    /// Whether the tunnel address is listened on; if not, it is dialled.
    #[must_use]
    pub const fn listens_on_tunnel(self) -> bool {
        match self {
            Self::ServerReverse | Self::ServerForward | Self::SingleEnd => true,
            Self::DualEnd => false,
        }
    }

    /// Whether the target address is listened on or dialled; `None`: the server will say.
    #[must_use]
    pub const fn listens_on_target(self) -> Option<bool> {
        match self {
            Self::ServerReverse => Some(true),
            Self::ServerForward | Self::SingleEnd => Some(false),
            Self::DualEnd => None,
        }
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerReverse => "reverse",
            Self::ServerForward => "forward",
            Self::SingleEnd => "single-end",
            Self::DualEnd => "dual-end",
        })
    }
}

/// What the driver found out about the address that decides: the target of a server, the tunnel
/// address of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The host is an address of this machine. An empty host is, a name that does not resolve is
    /// not.
    pub local: bool,
    /// It could be listened on.
    pub listenable: bool,
    /// Something listens there already.
    pub listening: bool,
}

/// What a tunnel end runs as, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it runs as.
    pub running: Running,
    /// Why, to follow "because".
    pub reason: &'static str,
}

impl fmt::Display for Decision {
    /// The line for the log, with how to force it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { running, reason } = self;
        let mode = running.mode();
        write!(f, "mode {mode} ({running}), because {reason}")?;
        if *reason != FORCED {
            write!(f, "; mode={mode} or mode={} in the URL forces it", 3 - mode)?;
        }
        Ok(())
    }
}

const FORCED: &str = "the URL says so";

/// Decides once, at start, by the table of `config.md` §2. An explicit `mode` needs no facts.
#[must_use]
pub const fn decide(role: Role, mode: Mode, facts: Facts) -> Decision {
    if let Some(running) = Running::explicit(role, mode) {
        let reason = FORCED;
        return Decision { running, reason };
    }
    let (running, reason) = match role {
        Role::Server if facts.listenable => (
            Running::ServerReverse,
            "the target address can be listened on here",
        ),
        Role::Server if !facts.local => (
            Running::ServerForward,
            "the target is not an address of this machine",
        ),
        Role::Server if facts.listening => (
            Running::ServerForward,
            "something already listens on the target address",
        ),
        // Then starting fails and says why, where forwarding would fail each user in silence.
        Role::Server => (
            Running::ServerReverse,
            "the target is an address of this machine and nothing listens there",
        ),
        Role::Client if !facts.local => (
            Running::DualEnd,
            "the tunnel host is not an address of this machine",
        ),
        Role::Client if facts.listenable => (
            Running::SingleEnd,
            "the tunnel address can be listened on here",
        ),
        Role::Client if facts.listening => (
            Running::DualEnd,
            "something already listens on the tunnel address",
        ),
        Role::Client => (
            Running::SingleEnd,
            "the tunnel host is an address of this machine and nothing listens there",
        ),
    };
    Decision { running, reason }
}

impl Tunnel {
    /// [`decide`] for this configuration. Where its addresses can mean only one thing (several
    /// targets can only be dialled, port 0 can only be listened on), the facts do not matter.
    ///
    /// What else is missing does not change the decision: see [`check_running`](Self::check_running).
    #[must_use]
    pub fn decide(&self, facts: Facts) -> Decision {
        let by_table = decide(self.role, self.mode, facts);
        if self.mode != Mode::Auto || self.check_addresses(by_table.running).is_ok() {
            return by_table;
        }
        let running = match by_table.running {
            Running::ServerReverse => Running::ServerForward,
            Running::ServerForward => Running::ServerReverse,
            Running::SingleEnd => Running::DualEnd,
            Running::DualEnd => Running::SingleEnd,
        };
        match self.check_addresses(running) {
            Ok(()) => Decision {
                running,
                reason: "nothing else fits this URL",
            },
            Err(_) => by_table,
        }
    }

    /// Whether the key is one that anyone can compute although strangers may reach the tunnel
    /// address, which is worth a WARN (`wire.md` §2.1).
    #[must_use]
    pub fn has_guessable_key(&self, running: Running) -> bool {
        self.default_key && running != Running::SingleEnd && !self.tunnel.is_loopback()
    }

    /// Whether the configuration makes sense in the mode it asks for, in either one if it is to be
    /// decided.
    pub(super) fn check_mode(&self) -> Result<(), ConfigError> {
        let (one, two) = match (Running::explicit(self.role, self.mode), self.role) {
            (Some(running), _) => return self.check_running(running),
            (None, Role::Server) => (Running::ServerReverse, Running::ServerForward),
            (None, Role::Client) => (Running::SingleEnd, Running::DualEnd),
        };
        let fits = |running| self.check_addresses(running).is_ok();
        let as_one = self.check_running(one);
        if fits(one) && !fits(two) {
            return as_one;
        }
        as_one.or_else(|_| self.check_running(two))
    }

    /// Whether the configuration makes sense as `running`. With [`Mode::Auto`] a driver has to ask
    /// once that is decided; an explicit mode was checked when the URL was read.
    ///
    /// # Errors
    /// The first parameter that is missing or does not fit.
    pub fn check_running(&self, running: Running) -> Result<(), ConfigError> {
        if self.tls == DataTls::Verified && running.listens_on_tunnel() {
            for (name, path) in [("crt", &self.crt), ("key", &self.crt_key)] {
                if path.is_none() {
                    let problem = "missing with tls=2";
                    return Err(ConfigError::new(name, problem, "the path of a PEM file"));
                }
            }
        }
        self.check_addresses(running)
    }

    /// Whether the addresses make sense as `running`.
    fn check_addresses(&self, running: Running) -> Result<(), ConfigError> {
        if self.tunnel.port == 0 && !running.listens_on_tunnel() {
            let problem = "0 where the server is dialled";
            return Err(ConfigError::new("port", problem, "1 to 65535"));
        }
        let several = self.targets.len() > 1;
        let dialled = running.listens_on_target() == Some(false) || several;
        if several && running.listens_on_target() == Some(true) {
            let problem = format!("{} of them where users are accepted", self.targets.len());
            return Err(ConfigError::new("target", problem, "one; several to dial"));
        }
        if dialled && self.targets.iter().any(|target| target.port == 0) {
            let problem = "port 0 where targets are dialled";
            return Err(ConfigError::new("target", problem, "ports 1 to 65535"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString as _;

    use super::super::{Config, parse};
    use super::*;

    /// local, listenable, listening
    const fn facts(local: bool, listenable: bool, listening: bool) -> Facts {
        Facts {
            local,
            listenable,
            listening,
        }
    }

    const ELSEWHERE: Facts = facts(false, false, false);
    const ELSEWHERE_OPEN: Facts = facts(false, false, true);
    const FREE: Facts = facts(true, true, false);
    const TAKEN: Facts = facts(true, false, true);
    const DENIED: Facts = facts(true, false, false);
    const ALL: [Facts; 5] = [ELSEWHERE, ELSEWHERE_OPEN, FREE, TAKEN, DENIED];

    #[test]
    fn an_explicit_mode_needs_no_facts() {
        let table = [
            (Role::Server, Mode::One, Running::ServerReverse, 1),
            (Role::Server, Mode::Two, Running::ServerForward, 2),
            (Role::Client, Mode::One, Running::SingleEnd, 1),
            (Role::Client, Mode::Two, Running::DualEnd, 2),
        ];
        for (role, mode, running, number) in table {
            for facts in ALL {
                let decision = decide(role, mode, facts);
                assert_eq!(decision.running, running, "{role:?} {mode:?} {facts:?}");
                assert_eq!(decision.running.mode(), number);
            }
        }
    }

    #[test]
    fn mode_zero_is_decided_by_the_facts() {
        let table = [
            (Role::Server, FREE, Running::ServerReverse),
            (Role::Server, ELSEWHERE, Running::ServerForward),
            (Role::Server, ELSEWHERE_OPEN, Running::ServerForward),
            (Role::Server, TAKEN, Running::ServerForward),
            (Role::Server, DENIED, Running::ServerReverse),
            (Role::Client, ELSEWHERE, Running::DualEnd),
            (Role::Client, ELSEWHERE_OPEN, Running::DualEnd),
            (Role::Client, FREE, Running::SingleEnd),
            (Role::Client, TAKEN, Running::DualEnd),
            (Role::Client, DENIED, Running::SingleEnd),
        ];
        for (role, facts, running) in table {
            let decision = decide(role, Mode::Auto, facts);
            assert_eq!(decision.running, running, "{role:?} {facts:?}");
        }
    }

    fn tunnel(url: &str) -> Tunnel {
        match parse(url, &|_| None).unwrap().config {
            Config::Tunnel(tunnel) => tunnel,
            Config::Master(_) => panic!("not a tunnel"),
        }
    }

    #[test]
    fn a_url_that_can_mean_one_thing_only_means_that() {
        let table = [
            ("server://:1/a:2,b:2", Running::ServerForward),
            ("server://:1/:0", Running::ServerReverse),
            ("client://:0/a:2", Running::SingleEnd),
            ("client://:0/a:2?tls=2&crt=c&key=k", Running::SingleEnd),
        ];
        for (url, running) in table {
            for facts in ALL {
                assert_eq!(
                    tunnel(url).decide(facts).running,
                    running,
                    "{url} {facts:?}"
                );
            }
        }
    }

    #[test]
    fn a_missing_certificate_is_an_error_and_changes_no_decision() {
        let client = tunnel("client://127.0.0.1:1080/t:80?tls=2");
        for facts in ALL {
            let by_table = decide(Role::Client, Mode::Auto, facts).running;
            assert_eq!(client.decide(facts).running, by_table, "{facts:?}");
        }
        let error = client.check_running(Running::SingleEnd).unwrap_err();
        assert_eq!(error.parameter, "crt");
        assert_eq!(client.check_running(Running::DualEnd), Ok(()));
        let half = tunnel("client://127.0.0.1:1080/t:80?tls=2&crt=c");
        let error = half.check_running(Running::SingleEnd).unwrap_err();
        assert_eq!(error.parameter, "key");
    }

    #[test]
    fn the_log_line_says_how_to_force_it() {
        assert_eq!(
            tunnel("server://:1/a:2").decide(ELSEWHERE).to_string(),
            "mode 2 (forward), because the target is not an address of this machine; mode=2 or \
             mode=1 in the URL forces it"
        );
        assert_eq!(
            tunnel("client://a:1/b:2?mode=1")
                .decide(ELSEWHERE)
                .to_string(),
            "mode 1 (single-end), because the URL says so"
        );
    }

    #[test]
    fn a_key_that_anyone_can_compute_is_noticed() {
        let table = [
            ("server://:1/:2", Running::ServerReverse, true),
            ("server://k@:1/:2", Running::ServerReverse, false),
            ("server://127.0.0.1:1/:2", Running::ServerReverse, false),
            ("server://localhost:1/:2", Running::ServerForward, false),
            ("client://a:1/:2", Running::DualEnd, true),
            ("client://:1/a:2", Running::SingleEnd, false),
            ("client://[::1]:1/a:2", Running::DualEnd, false),
        ];
        for (url, running, guessable) in table {
            assert_eq!(tunnel(url).has_guessable_key(running), guessable, "{url}");
        }
    }
}
