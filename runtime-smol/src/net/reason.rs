//! Words for errors.

use std::io;

/// What the system says about `error`, fit for the end of a one-line message: lower case, without
/// the error's number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    match (letters.next(), letters.next()) {
        // "IPv6 …" and the like keep their capital.
        (Some(first), Some(second)) if second.is_lowercase() => first
            .to_lowercase()
            .chain([second])
            .chain(letters)
            .collect(),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn system_errors_become_plain_words() {
        assert_eq!(reason(&Errno::ACCESS.into()), "permission denied");
        assert_eq!(reason(&io::Error::other("IPv6 is off")), "IPv6 is off");
        assert_eq!(reason(&io::Error::other("")), "");
    }
}
