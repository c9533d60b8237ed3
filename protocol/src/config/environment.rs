//! The `NP_…` variables (`config.md` §4).

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::time::Duration;

use super::value::{self, Value};
use super::{ConfigError, Environment, duration};
use crate::limits;

impl Default for Environment {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(5),
            tcp_dial_timeout: Duration::from_secs(5),
            udp_dial_timeout: Duration::from_secs(5),
            udp_read_timeout: Duration::from_secs(30),
            pool_get_timeout: Duration::from_secs(5),
            min_pool_interval: Duration::from_millis(100),
            max_pool_interval: Duration::from_secs(1),
            report_interval: Duration::from_secs(5),
            service_cooldown: Duration::from_secs(3),
            shutdown_timeout: Duration::from_secs(5),
            reload_interval: Duration::from_secs(3600),
            tcp_data_buf_size: Self::TCP_BUFFER,
            udp_data_buf_size: 65_535,
            semaphore_limit: 65_536,
            threads: None,
            state_file: None,
        }
    }
}

impl Environment {
    /// `NP_TCP_DATA_BUF_SIZE` by default, in bytes.
    pub const TCP_BUFFER: usize = 16 * 1024;

    /// Reads the variables through `env`, which answers with the text of one that is set. An empty
    /// one counts as not set.
    ///
    /// # Errors
    /// The first variable with an impossible value, by its full name.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = Variables { env };
        let default = Self::default();
        let mut read = Self {
            handshake_timeout: set.wait("NP_HANDSHAKE_TIMEOUT", default.handshake_timeout)?,
            tcp_dial_timeout: set.wait("NP_TCP_DIAL_TIMEOUT", default.tcp_dial_timeout)?,
            udp_dial_timeout: set.wait("NP_UDP_DIAL_TIMEOUT", default.udp_dial_timeout)?,
            udp_read_timeout: set.wait("NP_UDP_READ_TIMEOUT", default.udp_read_timeout)?,
            pool_get_timeout: set.wait("NP_POOL_GET_TIMEOUT", default.pool_get_timeout)?,
            min_pool_interval: set.wait("NP_MIN_POOL_INTERVAL", default.min_pool_interval)?,
            max_pool_interval: set.wait("NP_MAX_POOL_INTERVAL", default.max_pool_interval)?,
            report_interval: set.wait("NP_REPORT_INTERVAL", default.report_interval)?,
            service_cooldown: set.value("NP_SERVICE_COOLDOWN", default.service_cooldown)?,
            shutdown_timeout: set.value("NP_SHUTDOWN_TIMEOUT", default.shutdown_timeout)?,
            reload_interval: set.value("NP_RELOAD_INTERVAL", default.reload_interval)?,
            tcp_data_buf_size: set
                .size("NP_TCP_DATA_BUF_SIZE", BUFFER)?
                .unwrap_or(default.tcp_data_buf_size),
            udp_data_buf_size: set
                .size("NP_UDP_DATA_BUF_SIZE", BUFFER)?
                .unwrap_or(default.udp_data_buf_size)
                .max(limits::DATAGRAM),
            semaphore_limit: set
                .size("NP_SEMAPHORE_LIMIT", 1..=1_000_000)?
                .unwrap_or(default.semaphore_limit),
            threads: set.size("NP_THREADS", 1..=256)?,
            state_file: set.value("NP_STATE_FILE", None)?,
        };
        read.order_pool_intervals(&set)?;
        Ok(read)
    }

    /// Every variable with the text of its value, in the order of the specification.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let threads = self.threads.map(|threads| threads.to_string());
        Vec::from([
            ("NP_HANDSHAKE_TIMEOUT", self.handshake_timeout.write()),
            ("NP_TCP_DIAL_TIMEOUT", self.tcp_dial_timeout.write()),
            ("NP_UDP_DIAL_TIMEOUT", self.udp_dial_timeout.write()),
            ("NP_UDP_READ_TIMEOUT", self.udp_read_timeout.write()),
            ("NP_POOL_GET_TIMEOUT", self.pool_get_timeout.write()),
            ("NP_MIN_POOL_INTERVAL", self.min_pool_interval.write()),
            ("NP_MAX_POOL_INTERVAL", self.max_pool_interval.write()),
            ("NP_REPORT_INTERVAL", self.report_interval.write()),
            ("NP_SERVICE_COOLDOWN", self.service_cooldown.write()),
            ("NP_SHUTDOWN_TIMEOUT", self.shutdown_timeout.write()),
            ("NP_RELOAD_INTERVAL", self.reload_interval.write()),
            ("NP_TCP_DATA_BUF_SIZE", self.tcp_data_buf_size.to_string()),
            ("NP_UDP_DATA_BUF_SIZE", self.udp_data_buf_size.to_string()),
            ("NP_SEMAPHORE_LIMIT", self.semaphore_limit.to_string()),
            ("NP_THREADS", threads.unwrap_or_default()),
            ("NP_STATE_FILE", self.state_file.write()),
        ])
    }

    /// One of the two alone may cross the other's default, which then follows it; both together
    /// have to be in order.
    fn order_pool_intervals(&mut self, set: &Variables<'_>) -> Result<(), ConfigError> {
        if self.min_pool_interval <= self.max_pool_interval {
            return Ok(());
        }
        if set.get("NP_MAX_POOL_INTERVAL").is_none() {
            self.max_pool_interval = self.min_pool_interval;
        } else if set.get("NP_MIN_POOL_INTERVAL").is_none() {
            self.min_pool_interval = self.max_pool_interval;
        } else {
            return Err(ConfigError::new(
                "NP_MIN_POOL_INTERVAL",
                "longer than NP_MAX_POOL_INTERVAL",
                "at most NP_MAX_POOL_INTERVAL",
            ));
        }
        Ok(())
    }
}

/// What a relay buffer may measure, in bytes.
const BUFFER: RangeInclusive<u64> = 512..=16 * 1024 * 1024;

struct Variables<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Variables<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|text| !text.is_empty())
    }

    fn read<T>(
        &self,
        name: &str,
        default: T,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        self.get(name).map_or(Ok(default), |text| {
            read(&text).ok_or_else(|| ConfigError::bad_value(name, &text, allowed))
        })
    }

    fn value<T: Value>(&self, name: &str, default: T) -> Result<T, ConfigError> {
        self.read(name, default, T::ALLOWED, T::read)
    }

    /// A duration that makes no sense as zero.
    fn wait(&self, name: &str, default: Duration) -> Result<Duration, ConfigError> {
        let allowed = "a duration such as 500ms, 30s, 5m or 1h30m, above 0 and at most 8760h";
        let positive = |text: &str| duration::read(text).filter(|wait| !wait.is_zero());
        self.read(name, default, allowed, positive)
    }

    fn size(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<usize>, ConfigError> {
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        let read = |text: &str| value::number(text).filter(|size| range.contains(size));
        let size = self.read(name, None, &allowed, |text| read(text).map(Some))?;
        Ok(size.and_then(|size| usize::try_from(size).ok()))
    }
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned as _;

    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Environment, ConfigError> {
        Environment::read(&|asked| {
            let found = set.iter().find(|(name, _)| *name == asked);
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(read(&[]).unwrap(), Environment::default());
        assert_eq!(read(&[("NP_THREADS", "")]).unwrap(), Environment::default());
    }

    #[test]
    fn every_variable_is_read() {
        let set = [
            ("NP_HANDSHAKE_TIMEOUT", "1s"),
            ("NP_TCP_DIAL_TIMEOUT", "2s"),
            ("NP_UDP_DIAL_TIMEOUT", "3s"),
            ("NP_UDP_READ_TIMEOUT", "4s"),
            ("NP_POOL_GET_TIMEOUT", "5s"),
            ("NP_MIN_POOL_INTERVAL", "6ms"),
            ("NP_MAX_POOL_INTERVAL", "7s"),
            ("NP_REPORT_INTERVAL", "8s"),
            ("NP_SERVICE_COOLDOWN", "0"),
            ("NP_SHUTDOWN_TIMEOUT", "1h30m"),
            ("NP_RELOAD_INTERVAL", "11s"),
            ("NP_TCP_DATA_BUF_SIZE", "32768"),
            ("NP_UDP_DATA_BUF_SIZE", "70000"),
            ("NP_SEMAPHORE_LIMIT", "9"),
            ("NP_THREADS", "3"),
            ("NP_STATE_FILE", "/var/x.json"),
        ];
        let environment = read(&set).unwrap();
        let printed = environment.settings();
        let printed: Vec<_> = printed
            .iter()
            .map(|(name, text)| (*name, text.as_str()))
            .collect();
        assert_eq!(printed, set);
        assert_eq!(environment.shutdown_timeout, Duration::from_secs(5400));
    }

    #[test]
    fn a_bad_value_names_its_variable() {
        let table = [
            ("NP_HANDSHAKE_TIMEOUT", "0"),
            ("NP_TCP_DIAL_TIMEOUT", "5"),
            ("NP_UDP_DIAL_TIMEOUT", "soon"),
            ("NP_UDP_READ_TIMEOUT", "0s"),
            ("NP_POOL_GET_TIMEOUT", "-1s"),
            ("NP_MIN_POOL_INTERVAL", "1"),
            ("NP_MAX_POOL_INTERVAL", "9999h"),
            ("NP_REPORT_INTERVAL", "0"),
            ("NP_SERVICE_COOLDOWN", "x"),
            ("NP_SHUTDOWN_TIMEOUT", "5S"),
            ("NP_RELOAD_INTERVAL", "1d"),
            ("NP_TCP_DATA_BUF_SIZE", "16k"),
            ("NP_TCP_DATA_BUF_SIZE", "511"),
            ("NP_UDP_DATA_BUF_SIZE", "16777217"),
            ("NP_SEMAPHORE_LIMIT", "0"),
            ("NP_THREADS", "0"),
            ("NP_THREADS", "257"),
            ("NP_THREADS", "99999999999999999999"),
            ("NP_STATE_FILE", "a\nb"),
        ];
        for (name, text) in table {
            let error = read(&[(name, text)]).unwrap_err();
            assert_eq!(error.parameter, name, "{text:?}");
        }
    }

    #[test]
    fn a_datagram_always_fits_its_buffer() {
        let environment = read(&[("NP_UDP_DATA_BUF_SIZE", "8192")]).unwrap();
        assert_eq!(environment.udp_data_buf_size, 65_507);
    }

    #[test]
    fn pool_intervals_stay_in_order() {
        let short = read(&[("NP_MAX_POOL_INTERVAL", "20ms")]).unwrap();
        assert_eq!(short.min_pool_interval, Duration::from_millis(20));
        let long = read(&[("NP_MIN_POOL_INTERVAL", "2s")]).unwrap();
        assert_eq!(long.max_pool_interval, Duration::from_secs(2));
        let crossed = [
            ("NP_MIN_POOL_INTERVAL", "2s"),
            ("NP_MAX_POOL_INTERVAL", "1s"),
        ];
        assert_eq!(
            read(&crossed).unwrap_err().parameter,
            "NP_MIN_POOL_INTERVAL"
        );
    }
}
