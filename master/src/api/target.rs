//! Request targets: where the prefix ends, and what the rest names.

/// What a request target names below the master's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Percent-decoded once; `None` for what is not below the prefix.
    path: Option<String>,
    /// As sent.
    query: String,
}

impl Target {
    /// Reads the target of a request line, in origin or absolute form. `prefix` is matched
    /// literally, as it was sent or percent-decoded; `/v1` after it is optional.
    pub(crate) fn parse(raw: &str, prefix: &str) -> Self {
        let (path, query) = raw.split_once('?').unwrap_or((raw, ""));
        let path = origin(path);
        let below = below(path, prefix)
            .map(decode)
            .or_else(|| below(&decode(path), prefix).map(str::to_owned));
        let path = below.map(|path| match self::below(&path, "/v1") {
            Some(rest) => rest.to_owned(),
            None => path,
        });
        Self {
            path,
            query: query.to_owned(),
        }
    }

    /// What follows `base`, which ends with a slash.
    pub(crate) fn rest(&self, base: &str) -> &str {
        let path = self.path.as_deref().unwrap_or_default();
        path.strip_prefix(base).unwrap_or_default()
    }

    /// The first parameter `name` of the query, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.find_map(|(key, value)| (decode(key) == name).then_some(value))?;
        Some(decode(&value.replace('+', " ")))
    }

    /// The path for a router that understands plain segments only: whatever has a meaning in
    /// patterns or URLs becomes `~`, which no route has in its name.
    pub(crate) fn routable(&self) -> String {
        let Some(path) = &self.path else {
            return String::from("/~");
        };
        let mut routable = String::with_capacity(path.len() + 1);
        for segment in path.split('/').skip(1) {
            routable.push('/');
            if segment.bytes().all(|byte| byte == b'.') {
                routable.push('~');
            }
            let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '-');
            routable.extend(segment.chars().map(|c| if plain(c) { c } else { '~' }));
        }
        if routable.is_empty() {
            routable.push('/');
        }
        routable
    }
}

/// The path of an absolute form, as proxies send it; an origin form as it is.
fn origin(path: &str) -> &str {
    let Some((scheme, rest)) = path.split_once("://") else {
        return path;
    };
    if scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https") {
        rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/")
    } else {
        path
    }
}

/// What follows `prefix`: empty, or with a slash in front.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Decodes `%xx` once; what is no such thing stays as it is.
fn decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high * 16 + low);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routable(raw: &str, prefix: &str) -> String {
        Target::parse(raw, prefix).routable()
    }

    #[test]
    fn paths_are_found_below_the_prefix_with_and_without_v1() {
        let table = [
            ("/api/v1/instances", "/instances"),
            ("/api/instances", "/instances"),
            ("/api/v1/instances?x=/y", "/instances"),
            ("http://host:1/api/v1/info", "/info"),
            ("HTTPS://host/api/info?x", "/info"),
            ("/api/v1/instances/", "/instances/~"),
            ("/api/v1/instances/a1b2c3d4", "/instances/a1b2c3d4"),
            ("/api/v1/instances/a%2Fb", "/instances/a/b"),
            ("/api/v1/%69nfo", "/info"),
            ("/api/v1/openapi.json", "/openapi.json"),
            ("/api/v1", "/"),
            ("/api/v1/", "/~"),
            ("/api", "/"),
            ("/api/v1/v1/info", "/v1/info"),
            ("/api/v1/../info", "/~../info"),
            ("/api/v1//info", "/~/info"),
            ("/api/v1/:id/*x", "/~id/~x"),
            ("/apiary/info", "/~"),
            ("/", "/~"),
            ("*", "/~"),
            ("host:443", "/~"),
            ("http://host", "/~"),
        ];
        for (raw, expected) in table {
            assert_eq!(routable(raw, "/api"), expected, "{raw}");
        }
    }

    #[test]
    fn the_prefix_is_literal_whatever_it_holds() {
        for prefix in ["/a:b/*c", "/a/b/c", "/ä ö", "/%41", "/v1", "/..", ""] {
            let raw = format!("{prefix}/v1/info");
            assert_eq!(routable(&raw, prefix), "/info", "{prefix}");
        }
        assert_eq!(routable("/%C3%A4%20b/info", "/ä b"), "/info");
        assert_eq!(routable("/%2e%2e/info", "/api"), "/~");
    }

    #[test]
    fn ids_are_decoded_once() {
        let id = |raw| Target::parse(raw, "/api").rest("/instances/").to_owned();
        assert_eq!(id("/api/v1/instances/%2A%2A%2A%2A%2A%2A%2A%2A"), "********");
        assert_eq!(id("/api/instances/%252A"), "%2A");
        assert_eq!(id("/api/instances/%zz%4"), "%zz%4");
        assert_eq!(id("/api/instances/a%2Fb/c"), "a/b/c");
        assert_eq!(id("/api/instances/%ff"), "\u{fffd}");
        assert_eq!(id("/api/instances/"), "");
    }

    #[test]
    fn parameters_are_decoded() {
        let of = |raw| Target::parse(raw, "/api").parameter("target");
        assert_eq!(of("/api/tcping"), None);
        assert_eq!(of("/api/tcping?target"), Some(String::new()));
        assert_eq!(
            of("/api/tcping?a=b&target=%5B::1%5D%3A80"),
            Some("[::1]:80".to_owned())
        );
        assert_eq!(
            of("/api/tcping?target=a:1&target=b:2"),
            Some("a:1".to_owned())
        );
        assert_eq!(of("/api/tcping?target=a+b"), Some("a b".to_owned()));
    }
}
