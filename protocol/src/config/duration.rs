//! Durations as people write them: `500ms`, `30s`, `5m`, `1h30m`, and a bare `0`.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// The longest duration that is accepted: a year.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a duration looks like, for messages.
pub(super) const ALLOWED: &str = "a duration such as 500ms, 30s, 5m or 1h30m, at most 8760h, or 0";

/// Reads whole numbers with units, the largest unit first, each at most once.
pub(super) fn read(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut milliseconds = 0_u64;
    for (unit, worth) in UNITS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at_checked(digits)?;
        // `5ms` is not five minutes followed by an `s`.
        let Some(tail) = tail.strip_prefix(unit).filter(|t| !t.starts_with('s')) else {
            continue;
        };
        let part = number.parse::<u64>().ok()?.checked_mul(worth)?;
        milliseconds = milliseconds.checked_add(part)?;
        rest = tail;
    }
    let duration = Duration::from_millis(milliseconds);
    (rest.is_empty() && !text.is_empty() && duration <= LONGEST).then_some(duration)
}

/// The shortest text that [`read`] turns back into `duration`, which is cut to milliseconds.
pub(super) fn write(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, worth) in UNITS {
        let number = rest / worth;
        if number > 0 {
            text.push_str(&format!("{number}{unit}"));
        }
        rest %= worth;
    }
    if text.is_empty() {
        text.push('0');
    }
    text
}

/// Units and what they are worth in milliseconds, the largest first.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_of_the_specification() {
        let table = [
            ("0", 0),
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1m5ms", 60_005),
            ("1h1m1s1ms", 3_661_001),
            ("90m", 5_400_000),
            ("8760h", 31_536_000_000),
        ];
        for (text, milliseconds) in table {
            assert_eq!(
                read(text),
                Some(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_no_duration() {
        let bad = [
            "",
            "5",
            "00",
            "s",
            "-5s",
            "+5s",
            "5 s",
            "5S",
            "1.5s",
            "30m1h",
            "1s1s",
            "5d",
            "5sm",
            "5s5",
            "8761h",
            "5mss",
            "99999999999999999999s",
            "18446744073709551615h",
            "ｓ",
            "5ß",
        ];
        for text in bad {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(milliseconds in 0_u64..=31_536_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(read(&write(duration)), Some(duration));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[0-9hms.]{0,12}|\\PC{0,8}") {
            if let Some(duration) = read(&text) {
                prop_assert_eq!(read(&write(duration)), Some(duration));
            }
        }
    }
}
